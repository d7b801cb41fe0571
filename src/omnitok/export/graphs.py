"""What is exported of a tokenizer: two graphs of tensors, pixels to tokens and tokens to pixels."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.models.bottlenecks.base import Quantizer
from omnitok.models.encoding import make_encoding
from omnitok.models.tokenizer import OmniTokenizer

BATCHES = (2, 1, 3)
"""Samples that a graph is tried on: the first are traced."""

LARGEST_SIDE = 8192
"""Patches in a row or column, where a graph takes any size."""

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Graph:
    """A module of tensors that is to be written, and what it is tried on.

    Attributes:
        name: of its file, without the suffix.
        module: in `eval` mode; it takes and gives as many tensors as are named.
        inputs, outputs: names of the tensors.
        free: for each input its axes of any length, with what `torch.export` is to know about them.
        examples: inputs; the first are traced, and with all of them the file must give what `eager` gives.
        eager: what the graph stands for, as the library itself computes it.
        gap: for a first output of codes: how much farther from the features those that were found (third argument) are
            than those that were wanted (second), given the inputs.
        note: what the graph takes and gives, for its file; it can be written as JSON.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free: tuple[dict[int, Any], ...]
    examples: Sequence[Tensors]
    eager: Callable[..., Tensors]
    gap: Callable[[Tensors, Tensor, Tensor], float] | None = None
    note: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """The pixels that a graph is for: any number of images (frames = 1) or videos.

    Args:
        frames: of every video, 1 + a multiple of the temporal patch.
        size: (height, width), multiples of the patch; None for images of any such size above one window, whose
            windows are then padded and masked inside the graph.
    """

    frames: int
    size: tuple[int, int] | None

    def check(self, tokenizer: OmniTokenizer) -> None:
        """Raise ValueError for a shape that is not whole patches: "frames ..." or "size ..."."""
        t, p, _ = tokenizer.downsample
        if self.frames < 1 or (self.frames - 1) % t:
            raise ValueError(f"frames must be 1 for images, or 1 plus a multiple of {t}, found {self.frames}")
        if self.size is None:
            if self.frames > 1:
                raise ValueError("size can be any for images only: videos need a height and a width")
        elif any(side < p or side % p for side in self.size):
            height, width = self.size
            raise ValueError(f"size must be multiples of {p}, found {height}x{width}")

    def tried(self, tokenizer: OmniTokenizer) -> tuple[tuple[int, int], ...]:
        """A size for each of `BATCHES`; where any will do, some that fill windows and some that do not."""
        if self.size is not None:
            return (self.size,) * len(BATCHES)
        p, window = tokenizer.config.patch_size, tokenizer.config.window_size
        return (
            ((window + 3) * p, (window + 2) * p),
            ((window + 1) * p, 2 * window * p),
            (2 * window * p, 3 * window * p),
        )

    def pixels(self, tokenizer: OmniTokenizer, batch: int, size: tuple[int, int], seed: int) -> Tensor:
        """Noise in [-1, 1], every second sample smooth."""
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.rand(batch, tokenizer.channels, self.frames, *size, generator=generator) * 2 - 1
        coarse = pixels[1::2, :, :, ::8, ::8]
        if len(coarse):
            pixels[1::2] = nn.functional.interpolate(coarse, pixels.shape[2:], mode="trilinear")
        return pixels if self.frames > 1 else pixels.squeeze(2)

    def note(self, tokenizer: OmniTokenizer, part: str) -> dict[str, object]:
        """What the graph takes and gives, for its file; None in a shape is of any length."""
        t, p, _ = tokenizer.downsample
        inner = [] if self.frames == 1 else [self.frames]
        grid = [] if self.frames == 1 else [1 + (self.frames - 1) // t]
        size = (None, None) if self.size is None else self.size
        coarse = [None if side is None else side // p for side in size]
        pixels = [None, tokenizer.channels, *inner, *size]
        tokens = [None, *([] if tokenizer.is_discrete else [tokenizer.latent_channels]), *grid, *coarse]
        shapes = (pixels, tokens) if part == "encoder" else (tokens, pixels)
        return {
            "part": part,
            "tokens": "codes, int64" if tokenizer.is_discrete else "latents, float32",
            "pixels": "float32 in [-1, 1]",
            "input_shape": shapes[0],
            "output_shape": shapes[1],
            "patch": [t, p, p],
            "fingerprint": tokenizer.fingerprint,
            "config": asdict(tokenizer.config),
        }


class EncoderGraph(nn.Module):
    """Pixels (b, 3, H, W) or (b, 3, T, H, W) of whole patches -> `Encoding.tokens`, without its checks of values."""

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        super().__init__()
        self.encoder, self.bottleneck = tokenizer.encoder, tokenizer.bottleneck

    def forward(self, pixels: Tensor) -> Tensor:
        """Codes (b, h, w), (b, t, h, w), or latents (b, c, h, w), (b, c, t, h, w)."""
        is_image = pixels.ndim == 4
        video = pixels.unsqueeze(2) if is_image else pixels
        out = self.bottleneck.encode(self.encoder(video))
        return make_encoding(out, (video.shape[2], video.shape[3], video.shape[4]), is_image).tokens


class DecoderGraph(nn.Module):
    """Tokens -> pixels, not clamped: what `decode_codes` or `decode` gives, without its checks of values."""

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        super().__init__()
        self.decoder, self.bottleneck, self.is_discrete = tokenizer.decoder, tokenizer.bottleneck, tokenizer.is_discrete

    def forward(self, tokens: Tensor) -> Tensor:
        """Pixels (b, 3, H, W) or (b, 3, T, H, W)."""
        is_image = tokens.ndim == (3 if self.is_discrete else 4)
        if self.is_discrete:
            grid = self.bottleneck.lookup(tokens.unsqueeze(1) if is_image else tokens)
        else:
            grid = (tokens.unsqueeze(2) if is_image else tokens).permute(0, 2, 3, 4, 1)
        pixels = self.decoder(self.bottleneck.decode(grid))
        return pixels.squeeze(2) if is_image else pixels


@torch.no_grad()
def tokenizer_graphs(tokenizer: OmniTokenizer, shape: Shape, seed: int = 0) -> tuple[Graph, Graph]:
    """Encoder and decoder of a float32 tokenizer in `eval` mode on the CPU, tried on pixels drawn from `seed`.

    Raises:
        ValueError: a shape that is not whole patches.
    """
    shape.check(tokenizer)
    tokens_name = "codes" if tokenizer.is_discrete else "latents"
    sizes = shape.tried(tokenizer)
    pixels = [shape.pixels(tokenizer, n, size, seed + n) for n, size in zip(BATCHES, sizes, strict=True)]
    tokens = [tokenizer.encode(each, check_range=False).tokens.contiguous() for each in pixels]
    of_pixels: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    of_tokens: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if shape.size is None:
        of_pixels = {0: torch.export.Dim("batch")}
        of_tokens = {0: torch.export.Dim("batch")}
        for back, name in ((2, "rows"), (1, "columns")):
            side = torch.export.Dim(name, min=tokenizer.config.window_size + 1, max=LARGEST_SIDE)
            of_pixels[pixels[0].ndim - back] = tokenizer.config.patch_size * side
            of_tokens[tokens[0].ndim - back] = side

    def encode(x: Tensor) -> Tensors:
        return (tokenizer.encode(x, check_range=False).tokens,)

    def decode(x: Tensor) -> Tensors:
        return (tokenizer.decode_codes(x) if tokenizer.is_discrete else tokenizer.decode(x),)

    encoder = Graph(
        name="encoder",
        module=EncoderGraph(tokenizer).eval(),
        inputs=("pixels",),
        outputs=(tokens_name,),
        free=(of_pixels,),
        examples=[(each,) for each in pixels],
        eager=encode,
        gap=lambda inputs, wanted, found: gap_of_codes(tokenizer, inputs[0], wanted, found),
        note=shape.note(tokenizer, "encoder"),
    )
    decoder = Graph(
        name="decoder",
        module=DecoderGraph(tokenizer).eval(),
        inputs=(tokens_name,),
        outputs=("pixels",),
        free=(of_tokens,),
        examples=[(each,) for each in tokens],
        eager=decode,
        note=shape.note(tokenizer, "decoder"),
    )
    return encoder, decoder


def gap_of_codes(tokenizer: OmniTokenizer, pixels: Tensor, wanted: Tensor, found: Tensor) -> float:
    """How much farther from the features the codes that were found are than those that were wanted, at most."""
    bottleneck = tokenizer.bottleneck
    assert isinstance(bottleneck, Quantizer)
    video = pixels.unsqueeze(2) if pixels.ndim == 4 else pixels
    z = bottleneck.project(tokenizer.encoder(video)).reshape(-1, tokenizer.latent_channels)
    far, near = ((bottleneck.lookup(each.reshape(-1)) - z).norm(dim=-1) for each in (found, wanted))
    return float((far - near).max())
