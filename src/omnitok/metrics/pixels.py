"""One door for the pixels that metrics take: uint8 in 0 … 255 or float in [-1, 1]; anything else is refused by name."""

import torch
from torch import Tensor


def to_float_pixels(x: Tensor, what: str, video: bool = False) -> Tensor:
    """float32 pixels in [-1, 1] from uint8 (0 … 255) or float ([-1, 1]) ones; rank and shape stay.

    Raises ValueError for another rank, another number of channels than 3, NaN, or values that cannot be in [-1, 1].
    """
    shape = "(b, 3, T, H, W)" if video else "(b, 3, H, W)"
    if x.ndim != (5 if video else 4) or x.shape[1] != 3:
        raise ValueError(f"{what} needs {shape}, but got {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return x.float() / 127.5 - 1
    if not x.is_floating_point():
        raise ValueError(f"{what} needs uint8 or float pixels, but got {x.dtype}")
    check_float_range(x, what)
    return x.float()


def check_float_range(x: Tensor, what: str) -> None:
    """Raise ValueError where float pixels are NaN, infinite, or plainly in another range than [-1, 1].

    A little overshoot is a decoder's right (metrics do not clamp); beyond 2 the range was mistaken.
    """
    if x.numel() == 0:
        raise ValueError(f"{what} got no pixels: the shape is {tuple(x.shape)}")
    largest = x.detach().abs().amax().item()  # NaN wins over any number
    if largest != largest or largest == float("inf"):
        raise ValueError(f"{what} got pixels that are NaN or infinite")
    if largest > 2:
        raise ValueError(f"{what} needs pixels in [-1, 1], but got values up to {largest:.6g}")
