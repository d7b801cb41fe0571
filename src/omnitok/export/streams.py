"""Streams as graphs: what an encoder or decoder remembers of earlier frames goes in and comes out as tensors.

A video begins with `first`, which takes one frame or latent frame; each call of `step` takes one latent frame more.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from omnitok.export.graphs import BATCHES, DecoderGraph, EncoderGraph, Graph, Shape, Tensors, gap_of_codes
from omnitok.models.autoencoder import Decoder, Encoder, StreamCache
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.models.transformer import JointAttention, TemporalAttention

_PEG = 2  # frames that the positional convolution looks back


@dataclass(frozen=True)
class Slot:
    """One tensor that travels from step to step: which stack's block remembers it, and along which axis frames lie."""

    stack: str  # "spatial" or "temporal"
    block: int
    field: str  # of `BlockCache`
    axis: int

    @property
    def name(self) -> str:
        """Of the graph's tensor."""
        return f"{self.stack}_{self.block}_{self.field}"


def slots_of(part: Encoder | Decoder) -> list[Slot]:
    """What a part remembers, in the order in which its blocks stand."""
    slots = []
    for stack in ("spatial", "temporal"):
        for number, block in enumerate(getattr(part, stack).blocks):
            if block.positional_convolution is not None:
                slots.append(Slot(stack, number, "frames", 1))
            if isinstance(block.attention, TemporalAttention | JointAttention):
                axis = 2 if isinstance(block.attention, TemporalAttention) else 1
                slots += [Slot(stack, number, field, axis) for field in ("keys", "values")]
    return slots


class StreamGraph(nn.Module):
    """Encoder or decoder of a tokenizer with a cache of tensors; the attention keeps all frames that it is given."""

    def __init__(self, coder: EncoderGraph | DecoderGraph, slots: Sequence[Slot]) -> None:
        super().__init__()
        self.coder, self.slots = coder, slots

    def forward(self, x: Tensor, *past: Tensor) -> Tensors:
        """x of one latent frame, and what is remembered (nothing at a video's beginning) -> result, and the same."""
        part = self.coder.encoder if isinstance(self.coder, EncoderGraph) else self.coder.decoder
        cache = part.new_cache()
        put(cache, self.slots, past)
        result = self.coder(x, cache)
        return result, *take(cache, self.slots)


def put(cache: StreamCache, slots: Sequence[Slot], past: Sequence[Tensor]) -> None:
    """Let a cache remember these tensors, one for each slot; none: a video begins."""
    cache.started = bool(past)
    for slot, tensor in zip(slots, past, strict=False):
        setattr(getattr(cache, slot.stack)[slot.block], slot.field, tensor)


def take(cache: StreamCache, slots: Sequence[Slot]) -> Tensors:
    """What a cache remembers; frames of the positional convolution are two from the beginning, as if of zeros."""
    tensors = [getattr(getattr(cache, slot.stack)[slot.block], slot.field) for slot in slots]
    return tuple(
        torch.cat([torch.zeros_like(x), x], dim=1) if slot.field == "frames" and x.shape[1] < _PEG else x
        for slot, x in zip(slots, tensors, strict=True)
    )


@torch.no_grad()
def stream_graphs(tokenizer: OmniTokenizer, size: tuple[int, int], seed: int = 0) -> list[Graph]:
    """`encoder_first`, `encoder_step`, `decoder_first`, `decoder_step` of a float32 tokenizer in `eval` mode.

    Keys and values grow by a frame with each step, of which the caller keeps the last `window` - 1: the note says how
    many (`keep`) and along which axis of each tensor (`axes`).

    Args:
        size: (height, width) of the video, multiples of the patch.

    Raises:
        ValueError: a size that is not whole patches, or a tokenizer that cannot stream.
    """
    Shape(1, size).check(tokenizer)
    if not tokenizer.config.streamable:
        raise ValueError("stream needs a causal tokenizer, and this one mixes later frames into earlier ones")
    t, window = tokenizer.downsample[0], tokenizer.config.temporal_window
    if window == 1:
        raise ValueError("stream needs a temporal_window of 2 latent frames or more, and this tokenizer's is 1")
    steps = 2 if window is None else max(2, min(window, 8))  # of the longest example: one that fills the window
    shape = Shape(1 + t * steps, size)
    tried = zip(BATCHES, shape.tried(tokenizer), strict=True)
    videos = [shape.pixels(tokenizer, batch, each, seed + batch) for batch, each in tried]
    tokens = [tokenizer.encode(video, check_range=False).tokens for video in videos]
    along = 1 if tokenizer.is_discrete else 2
    pixels_in = [(video[:, :, :1], *video[:, :, 1:].split(t, dim=2)) for video in videos]
    tokens_in = [each.contiguous().split(1, dim=along) for each in tokens]
    name = "codes" if tokenizer.is_discrete else "latents"
    return [
        *_first_and_step(tokenizer, EncoderGraph(tokenizer), ("pixels", name), pixels_in),
        *_first_and_step(tokenizer, DecoderGraph(tokenizer), (name, "pixels"), tokens_in),
    ]


def _first_and_step(
    tokenizer: OmniTokenizer,
    graph: EncoderGraph | DecoderGraph,
    names: tuple[str, str],
    videos: Sequence[Sequence[Tensor]],
) -> tuple[Graph, Graph]:
    """The two graphs of a part, tried on the pieces of videos as the library itself streams them."""
    is_encoder = isinstance(graph, EncoderGraph)
    part = graph.encoder if isinstance(graph, EncoderGraph) else graph.decoder
    slots, window = slots_of(part), tokenizer.config.temporal_window
    module = StreamGraph(copy.deepcopy(graph), slots).eval()
    for attention in module.modules():
        if isinstance(attention, TemporalAttention | JointAttention):
            attention.window = None  # what is given is seen: the caller keeps no more than the window

    def eager(x: Tensor, *past: Tensor) -> Tensors:
        cache = part.new_cache()
        put(cache, slots, past)
        result, kept = graph(x, cache), take(cache, slots)
        if past:
            kept = tuple(_with_oldest(*each) for each in zip(slots, past, kept, strict=True))
        return result, *kept

    def features(x: Tensor, *past: Tensor) -> Tensor:
        cache = part.new_cache()
        put(cache, slots, past)
        return part(x, cache)

    def remembered(pieces: Sequence[Tensor]) -> Tensors:
        past: Tensors = ()
        for piece in pieces:
            past = cut(slots, eager(piece, *past)[1:], window)
        return past

    lengths = (2, 1, len(videos[-1]) - 1)  # pieces before the one of the example
    steps = [(video[n].contiguous(), *remembered(video[:n])) for video, n in zip(videos, lengths, strict=True)]
    batch, past = torch.export.Dim("batch"), torch.export.Dim("past", max=4096 if window is None else window - 1)
    is_fixed = window == 2  # one frame is remembered at every step, and torch takes 1 for no free size
    free = [{0: batch} | ({} if is_fixed or slot.field == "frames" else {slot.axis: past}) for slot in slots]
    note = {
        "pixels": "float32 in [-1, 1]",
        "fingerprint": tokenizer.fingerprint,
        "keep": None if window is None else window - 1,
        "axes": {slot.name: slot.axis for slot in slots if slot.field != "frames"},
    }
    has_codes = is_encoder and tokenizer.is_discrete
    title = "encoder" if is_encoder else "decoder"
    kept = tuple(f"new_{slot.name}" for slot in slots)
    first = Graph(
        name=f"{title}_first",
        module=module,
        inputs=(names[0],),
        outputs=(names[1], *kept),
        free=({0: batch},),
        examples=[(video[0].contiguous(),) for video in videos],
        eager=eager,
        gap=(lambda given, wanted, found: gap_of_codes(tokenizer, features(*given), wanted, found))
        if has_codes
        else None,
        note={"part": f"{title}_first", **note},
        relative=kept,
    )
    step = replace(
        first,
        name=f"{title}_step",
        inputs=(names[0], *(slot.name for slot in slots)),
        free=({0: batch}, tuple(free)),
        examples=steps,
        note={"part": f"{title}_step", **note},
    )
    return first, step


def _with_oldest(slot: Slot, before: Tensor, after: Tensor) -> Tensor:
    """What the library keeps, and before it the frame that it dropped, which graphs leave to their caller."""
    whole = before.shape[slot.axis] + 1
    if slot.field == "frames" or after.shape[slot.axis] == whole:
        return after
    return torch.cat([before.narrow(slot.axis, 0, whole - after.shape[slot.axis]), after], dim=slot.axis)


def cut(slots: Sequence[Slot], tensors: Tensors, window: int | None) -> Tensors:
    """What is kept of a graph's results for its next step."""
    if window is None:
        return tensors
    kept = (min(x.shape[slot.axis], window - 1) for slot, x in zip(slots, tensors, strict=True))
    return tuple(
        x if slot.field == "frames" else x.narrow(slot.axis, x.shape[slot.axis] - n, n)
        for slot, x, n in zip(slots, tensors, kept, strict=True)
    )
