"""What `encode` takes and gives: the checks of its pixels and of what the encoder makes of them, and `Encoding`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omnitok.errors import NotFiniteError
from omnitok.models.bottlenecks import BottleneckOutput, GaussianPosterior

FEATURES_WHY = "the weights of the encoder are damaged, or its precision is too low for these pixels"
LATENTS_WHY = "they are damaged, or whatever made them diverged"
DECODED_WHY = "the weights of the decoder are damaged, or its precision is too low for these latents"

PIXEL_LIMIT = 1.25  # resampling overshoots [-1, 1] a little; beyond this the range is wrong


@dataclass(frozen=True)
class Encoding:
    """What `encode` gives. An image has no time axis in any of it.

    Attributes:
        latents: (b, c, t, h, w) or (b, c, h, w).
        codes: (b, t, h, w) or (b, h, w), int64; None for a VAE.
        posterior: `mean` and `logvar` in the shape of the latents; None for a quantizer.
        size: (T, H, W) of the input, for `decode` to crop to.
    """

    latents: Tensor
    codes: Tensor | None
    posterior: GaussianPosterior | None
    size: tuple[int, int, int]

    @property
    def tokens(self) -> Tensor:
        """The codes, or the latents where there are no codes: what is stored, and what generators learn."""
        return self.latents if self.codes is None else self.codes

    def __repr__(self) -> str:
        what = f"latents={tuple(self.latents.shape)}" if self.codes is None else f"codes={tuple(self.codes.shape)}"
        return f"Encoding({what}, size={self.size}, {self.latents.device})"


def make_encoding(out: BottleneckOutput, size: tuple[int, int, int], is_image: bool) -> Encoding:
    """Channels first, and without a time axis for an image."""

    def arrange(grid: Tensor) -> Tensor:
        grid = grid.permute(0, 4, 1, 2, 3)
        return grid.squeeze(2) if is_image else grid

    posterior = None
    if out.posterior is not None:
        posterior = GaussianPosterior(arrange(out.posterior.mean), arrange(out.posterior.logvar))
    codes = out.codes
    if codes is not None and is_image:
        codes = codes.squeeze(1)
    return Encoding(arrange(out.latents), codes, posterior, size)


class HeadedModel(nn.Module):
    """A network that ends in a linear layer `head`, which says where and how its weights are kept."""

    head: nn.Linear

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.head.weight.dtype


def describe_model(model: nn.Module, what: str) -> str:
    """A model in one line: its class, size, what it is of, device and precision."""
    weight = next(iter(model.parameters()))
    million = sum(p.numel() for p in model.parameters()) / 1e6
    where = f"{weight.device}, {str(weight.dtype).removeprefix('torch.')}"
    return f"{type(model).__name__}({million:.1f} M parameters, {what}, {where})"


def check_finite(x: Tensor, what: str, why: str) -> None:
    """Refuse NaN and infinity, which a quantizer would turn into code 0 without a word.

    A sum is enough: whatever is not finite stays so in it. Traced graphs are left as they are.

    Raises:
        NotFiniteError: "{what} hold NaN or infinite values: {why}".
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    if not bool(x.detach().sum(dtype=torch.float64 if x.dtype == torch.float64 else torch.float32).isfinite()):
        raise NotFiniteError(f"{what} hold NaN or infinite values: {why}")


def check_latents(latents: Tensor, channels: int) -> None:
    """Refuse what cannot be latents (b, c, h, w) or (b, c, t, h, w) of that many channels.

    Raises:
        ValueError: one sentence with what was found and what is accepted.
        NotFiniteError: NaN or infinity among them.
    """
    if not isinstance(latents, Tensor):
        raise ValueError(f"latents must be a torch.Tensor, found {type(latents).__name__}")
    if latents.ndim not in (4, 5) or not latents.is_floating_point():
        found = f"{latents.dtype} {tuple(latents.shape)}"
        raise ValueError(f"latents must be floating point (b, c, h, w) or (b, c, t, h, w), found {found}")
    if latents.shape[1] != channels:
        raise ValueError(f"latents must have {channels} channels, found {latents.shape[1]}")
    check_finite(latents, "latents", LATENTS_WHY)


def check_codes(codes: Tensor, vocab_size: int | None) -> Tensor:
    """Codes (b, h, w) or (b, t, h, w) as int64, after checking rank, dtype and range.

    Raises:
        ValueError: naming what was found and what is accepted.
    """
    if vocab_size is None:
        raise ValueError("this tokenizer is a VAE: it has latents and no codes; use encode(...).latents and decode")
    if not isinstance(codes, Tensor):
        raise ValueError(f"codes must be a torch.Tensor, found {type(codes).__name__}")
    if codes.ndim not in (3, 4):
        raise ValueError(f"codes must be (b, h, w) or (b, t, h, w), found {tuple(codes.shape)}")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes must be integers, found {codes.dtype}")
    codes = codes.long()  # first: not every integer type can be compared
    if codes.numel():
        low, high = (int(v) for v in codes.aminmax())
        if low < 0 or high >= vocab_size:
            raise ValueError(f"codes must lie in [0, {vocab_size - 1}], found [{low}, {high}]")
    return codes


def check_crop(size: tuple[int, int, int] | None, full: tuple[int, int, int], is_image: bool) -> tuple[int, int, int]:
    """The (T, H, W) to crop `full` decoded pixels to; all of them where `size` is None.

    Raises:
        ValueError: a size that the pixels do not cover.
    """
    crop = full if size is None else size
    fits = len(crop) == 3 and all(1 <= c <= f for c, f in zip(crop, full, strict=True))
    if not fits or (is_image and crop[0] != 1):
        raise ValueError(f"size (T, H, W) must lie between (1, 1, 1) and {full} for these latents, found {tuple(crop)}")
    return crop


def check_pixels(x: Tensor, check_range: bool = True, channels: int = 3) -> None:
    """Refuse what cannot be pixels of so many channels in [-1, 1].

    Raises:
        ValueError: one sentence with what was found and what is accepted.
    """
    accepted = f"accepted are float images (b, {channels}, H, W) or videos (b, {channels}, T, H, W) in [-1, 1]"
    if not isinstance(x, Tensor):
        raise ValueError(f"pixels must be a torch.Tensor, found {type(x).__name__}; {accepted}")
    if x.ndim not in (4, 5) or x.shape[1] != channels:
        raise ValueError(f"pixels have shape {tuple(x.shape)}; {accepted}")
    if x.numel() == 0:
        raise ValueError(f"pixels are empty, shape {tuple(x.shape)}; {accepted}")
    if not x.is_floating_point():
        hint = ": for uint8 use x.float() / 127.5 - 1" if x.dtype == torch.uint8 else ""
        raise ValueError(f"pixels have dtype {x.dtype}; {accepted}{hint}")
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    low, high = (float(v) for v in x.detach().aminmax())
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # a NaN anywhere makes both NaN
        raise NotFiniteError(f"pixels hold NaN or infinite values; {accepted}")
    if low < -PIXEL_LIMIT or high > PIXEL_LIMIT:
        raise ValueError(f"pixels lie in [{low:.4g}, {high:.4g}]; {accepted}")
    if check_range and 0 <= low < 0.02 and 0.9 < high <= 1:
        raise ValueError(
            f"pixels lie in [{low:.4g}, {high:.4g}], which looks like [0, 1]; {accepted}: use 2 * x - 1, or pass "
            "check_range=False if the image really has nothing darker than mid-grey"
        )
