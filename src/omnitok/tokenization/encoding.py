"""The encoding stage: the pixels of a group become tokens, in batches that depend on the group alone."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor

from omnitok.data.shard_writing import Token, pack
from omnitok.models.streaming import EncoderStream
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.tokenization.job import GroupTokens, Plan
from omnitok.tokenization.reading import Chunk, Piece, Pixels, Place

WAITING_BYTES = 2**28
"""Pixels of odd sizes wait for others of their size until they reach this together."""


class GroupEncoder:
    """Takes the pieces of one group and gives its tokens.

    Batches gather pixels of one shape, in the order they come; the last one of a shape may be smaller. Clips that come
    in chunks are streamed one by one, in memory that does not grow with their length (where the tokenizer cannot
    stream, they are gathered first).
    """

    def __init__(self, plan: Plan, tokenizer: OmniTokenizer, group: int) -> None:
        self._plan, self._tokenizer = plan, tokenizer
        self._waiting: dict[torch.Size, list[Pixels]] = {}
        self._waiting_bytes = 0
        self._streams: dict[Place, _ClipStream] = {}
        self._done: dict[Place, Token] = {}
        self._result = GroupTokens(group)

    @property
    def frames(self) -> int:
        """Frames encoded so far; a picture is one."""
        return self._result.frames

    def push(self, piece: Piece) -> None:
        """Take the next piece."""
        started = time.perf_counter()
        for unit in piece.units:
            if isinstance(unit, Pixels):
                self._gather(unit)
            else:
                self._stream(unit)
        self._result.errors += piece.errors
        self._result.seconds += time.perf_counter() - started

    def finish(self) -> GroupTokens:
        """Encode what waits; the tokens of the group, without those of files that turned out to be unreadable."""
        started = time.perf_counter()
        for shape in list(self._waiting):
            self._flush(shape)
        self._result.seconds += time.perf_counter() - started
        unread = {error.sample for error in self._result.errors}
        places = sorted(self._done, key=lambda place: (place.sample, place.view, place.window))
        self._result.tokens = [self._done[place] for place in places if place.sample not in unread]
        return self._result

    def _gather(self, unit: Pixels) -> None:
        waiting = self._waiting.setdefault(unit.pixels.shape, [])
        waiting.append(unit)
        self._waiting_bytes += unit.pixels.nbytes
        if len(waiting) == self._plan.settings.batch_size:
            self._flush(unit.pixels.shape)
        elif self._waiting_bytes > WAITING_BYTES:
            self._flush(max(self._waiting, key=lambda shape: len(self._waiting[shape]) * shape.numel()))

    def _flush(self, shape: torch.Size) -> None:
        units = self._waiting.pop(shape)
        pixels = torch.stack([unit.pixels for unit in units])
        self._waiting_bytes -= pixels.nbytes
        tokens = encode_batch(self._tokenizer, pixels)
        for unit, values in zip(units, pack(tokens, self._plan.format), strict=True):
            self._done[unit.place] = Token(unit.record, values)
            self._result.frames += unit.record.size[0]

    def _stream(self, chunk: Chunk) -> None:
        stream = self._streams.setdefault(chunk.place, _ClipStream(self._tokenizer))
        tokens = stream.push(chunk.frames, is_last=chunk.record is not None)
        if chunk.record is not None and tokens is not None:
            del self._streams[chunk.place]
            self._done[chunk.place] = Token(chunk.record, pack(tokens, self._plan.format))
            self._result.frames += chunk.record.size[0]


class _ClipStream:
    """One long clip on its way through the encoder."""

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream: EncoderStream | None = tokenizer.encoder_stream() if tokenizer.causal else None
        self._parts: list[Tensor] = []  # tokens, or pixels where the tokenizer cannot stream

    def push(self, frames: Tensor, is_last: bool) -> Tensor | None:
        """The tokens of the whole clip, (t, h, w) or (c, t, h, w), after its last frames."""
        if self._stream is None:
            self._parts.append(frames)
            return encode_batch(self._tokenizer, torch.cat(self._parts, dim=1)[None])[0] if is_last else None
        self._parts.append(self._stream.push(frames[None]).tokens[0].cpu())
        if not is_last:
            return None
        self._parts.append(self._stream.flush().tokens[0].cpu())
        return torch.cat(self._parts, dim=-3)


@torch.inference_mode()
def encode_batch(tokenizer: OmniTokenizer, pixels: Tensor) -> Tensor:
    """Pixels (b, 3, H, W) or (b, 3, T, H, W) -> codes, or means of the posterior, on the CPU."""
    return tokenizer.encode(pixels.to(tokenizer.device), check_range=False).tokens.cpu()


def encode_group(plan: Plan, tokenizer: OmniTokenizer, pieces: Iterable[Piece], group: int) -> GroupTokens:
    """The tokens of a group from all of its pieces."""
    encoder = GroupEncoder(plan, tokenizer, group)
    for piece in pieces:
        encoder.push(piece)
    return encoder.finish()
