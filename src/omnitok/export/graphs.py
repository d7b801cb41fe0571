"""What is exported of a tokenizer: two graphs of tensors, pixels to tokens and tokens to pixels."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.models.autoencoder import StreamCache
from omnitok.models.bottlenecks.base import Quantizer
from omnitok.models.encoding import make_encoding
from omnitok.models.tokenizer import OmniTokenizer

BATCHES = (2, 1, 3)
"""Samples that a graph is tried on: the first are traced."""

LARGEST_SIDE = 8192
"""Patches in a row or column, or latent frames, where a graph takes any number."""

FEWEST_FRAMES = 3
"""Latent frames of a video, where a graph takes any number: with two, torch lays one and many out alike."""

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Graph:
    """A module of tensors that is to be written, and what it is tried on.

    Attributes:
        name: of its file, without the suffix.
        module: in `eval` mode; it takes and gives as many tensors as are named.
        inputs, outputs: names of the tensors.
        free: for each argument its axes of any length, with what `torch.export` is to know about them.
        examples: inputs; the first are traced, and with all of them the file must give what `eager` gives.
        eager: what the graph stands for, as the library itself computes it.
        gap: for a first output of codes: how much farther from the features those that were found (third argument) are
            than those that were wanted (second), given the inputs.
        note: what the graph takes and gives, for its file; it can be written as JSON.
        relative: outputs without a range, as logits and features, whose errors are shares of their largest value where
            that is above 1.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free: tuple[Any, ...]
    examples: Sequence[Tensors]
    eager: Callable[..., Tensors]
    gap: Callable[[Tensors, Tensor, Tensor], float] | None = None
    note: dict[str, object] = field(default_factory=dict)
    relative: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """The pixels that a graph is for: any number of images (frames = 1) or videos.

    Args:
        frames: of every video, 1 + a multiple of the temporal patch; None for videos of any such length, of at least
            `FEWEST_FRAMES` latent frames.
        size: (height, width), multiples of the patch; None for any such size above one window, whose windows are then
            padded and masked inside the graph.
    """

    frames: int | None
    size: tuple[int, int] | None

    def check(self, tokenizer: OmniTokenizer) -> None:
        """Raise ValueError for a shape that is not whole patches: "frames ..." or "size ..."."""
        t, p, _ = tokenizer.downsample
        if self.frames is not None and (self.frames < 1 or (self.frames - 1) % t):
            raise ValueError(f"frames must be 1 for images, or 1 plus a multiple of {t}, found {self.frames}")
        if self.size is not None and any(side < p or side % p for side in self.size):
            height, width = self.size
            raise ValueError(f"size must be multiples of {p}, found {height}x{width}")

    @property
    def is_image(self) -> bool:
        """Whether the graphs take images."""
        return self.frames == 1

    def tried(self, tokenizer: OmniTokenizer) -> list[tuple[int, int, int]]:
        """Frames, height and width for each of `BATCHES`; where any will do, some that fill windows, some that do
        not."""
        t, p, _ = tokenizer.downsample
        window = tokenizer.config.window_size
        any_frames = (1 + (FEWEST_FRAMES + more - 1) * t for more in (1, 0, 2))
        any_sides = (
            ((window + 3) * p, (window + 2) * p),
            ((window + 1) * p, 2 * window * p),
            (2 * window * p, 3 * window * p),
        )
        return [
            (frames if self.frames is None else self.frames, *(sides if self.size is None else self.size))
            for frames, sides in zip(any_frames, any_sides, strict=True)
        ]

    def pixels(self, tokenizer: OmniTokenizer, batch: int, tried: tuple[int, int, int], seed: int) -> Tensor:
        """Noise in [-1, 1], every second sample smooth, of the frames, height and width that are tried."""
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.rand(batch, tokenizer.channels, *tried, generator=generator) * 2 - 1
        coarse = pixels[1::2, :, :, ::8, ::8]
        if len(coarse):
            pixels[1::2] = nn.functional.interpolate(coarse, pixels.shape[2:], mode="trilinear")
        return pixels.squeeze(2) if self.is_image else pixels

    def free(self, tokenizer: OmniTokenizer) -> tuple[dict[int, Any], dict[int, Any]]:
        """The axes of any length of pixels and of tokens."""
        t, p, _ = tokenizer.downsample
        of_pixels: dict[int, Any] = {0: torch.export.Dim("batch")}
        of_tokens: dict[int, Any] = {0: of_pixels[0]}
        inner = 0 if self.is_image else 1
        first = 1 if tokenizer.is_discrete else 2  # axis of the tokens after batch and channels
        if self.frames is None:
            more = torch.export.Dim("more_frames", min=FEWEST_FRAMES - 1, max=LARGEST_SIDE)
            of_pixels[2], of_tokens[first] = (
                t * more + 1,
                torch.export.Dim("frames", min=FEWEST_FRAMES, max=LARGEST_SIDE),
            )
        if self.size is None:
            for axis, name in enumerate(("rows", "columns")):
                side = torch.export.Dim(name, min=tokenizer.config.window_size + 1, max=LARGEST_SIDE)
                of_pixels[2 + inner + axis], of_tokens[first + inner + axis] = p * side, side
        return of_pixels, of_tokens

    def note(self, tokenizer: OmniTokenizer, part: str) -> dict[str, object]:
        """What the graph takes and gives, for its file; None in a shape is of any length."""
        t, p, _ = tokenizer.downsample
        inner = [] if self.is_image else [self.frames]
        grid = [] if self.is_image else [None if self.frames is None else 1 + (self.frames - 1) // t]
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

    def forward(self, pixels: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Codes (b, h, w), (b, t, h, w), or latents (b, c, h, w), (b, c, t, h, w); of a video that goes on from `cache`
        those of whole latent frames."""
        is_image = pixels.ndim == 4
        video = pixels.unsqueeze(2) if is_image else pixels
        out = self.bottleneck.encode(self.encoder(video, cache))
        return make_encoding(out, (video.shape[2], video.shape[3], video.shape[4]), is_image).tokens


class DecoderGraph(nn.Module):
    """Tokens -> pixels, not clamped: what `decode_codes` or `decode` gives, without its checks of values."""

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        super().__init__()
        self.decoder, self.bottleneck, self.is_discrete = tokenizer.decoder, tokenizer.bottleneck, tokenizer.is_discrete

    def forward(self, tokens: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Pixels (b, 3, H, W) or (b, 3, T, H, W); of a video that goes on from `cache` the next frames."""
        is_image = tokens.ndim == (3 if self.is_discrete else 4)
        if self.is_discrete:
            grid = self.bottleneck.lookup(tokens.unsqueeze(1) if is_image else tokens)
        else:
            grid = (tokens.unsqueeze(2) if is_image else tokens).permute(0, 2, 3, 4, 1)
        pixels = self.decoder(self.bottleneck.decode(grid), cache)
        return pixels.squeeze(2) if is_image else pixels


@torch.no_grad()
def tokenizer_graphs(tokenizer: OmniTokenizer, shape: Shape, seed: int = 0) -> tuple[Graph, Graph]:
    """Encoder and decoder of a float32 tokenizer in `eval` mode on the CPU, tried on pixels drawn from `seed`.

    Raises:
        ValueError: a shape that is not whole patches.
    """
    shape.check(tokenizer)
    tokens_name = "codes" if tokenizer.is_discrete else "latents"
    tried = shape.tried(tokenizer)
    pixels = [shape.pixels(tokenizer, n, each, seed + n) for n, each in zip(BATCHES, tried, strict=True)]
    tokens = [tokenizer.encode(each, check_range=False).tokens.contiguous() for each in pixels]
    of_pixels, of_tokens = shape.free(tokenizer)

    def encode(x: Tensor) -> Tensors:
        return (tokenizer.encode(x, check_range=False).tokens,)

    def decode(x: Tensor) -> Tensors:
        return (tokenizer.decode_codes(x) if tokenizer.is_discrete else tokenizer.decode(x),)

    def features(x: Tensor) -> Tensor:
        return tokenizer.encoder(x.unsqueeze(2) if x.ndim == 4 else x)

    encoder = Graph(
        name="encoder",
        module=EncoderGraph(tokenizer).eval(),
        inputs=("pixels",),
        outputs=(tokens_name,),
        free=(of_pixels,),
        examples=[(each,) for each in pixels],
        eager=encode,
        gap=lambda inputs, wanted, found: gap_of_codes(tokenizer, features(inputs[0]), wanted, found),
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


def gap_of_codes(tokenizer: OmniTokenizer, features: Tensor, wanted: Tensor, found: Tensor) -> float:
    """How much farther from the features the codes that were found are than those that were wanted, at most."""
    bottleneck = tokenizer.bottleneck
    assert isinstance(bottleneck, Quantizer)
    z = bottleneck.project(features).reshape(-1, tokenizer.latent_channels)
    far, near = ((bottleneck.lookup(each.reshape(-1)) - z).norm(dim=-1) for each in (found, wanted))
    return float((far - near).max())
