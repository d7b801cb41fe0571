"""What one call of a generator asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor
from tqdm.auto import tqdm

from omnitok.models.sampling import Sampling

Items = Sequence[int | str | Tensor | None]
"""What each item is asked to show, see `Labels`."""

Labels = Tensor | Items | int | str | None
"""Class numbers or names, one per item, or one for all; -1 and None are "any class". Of a model that is conditioned on
texts these, on embeddings tensors (n, d); None is "any" too."""

Progress = Callable[[int, int], None]
"""Called with (done, in all); in all is -1 for a stream without end."""

Grid = tuple[int, int, int]
"""(t, h, w) latent positions of a video; an image is a video of one frame."""

ENDLESS = 2**62
"""Frames of a stream that never ends."""

Options = TypeVar("Options", bound=Sampling)


class ProgressTracker:
    """Counts what is done over all batches, for a progress callback; True is a bar, in a terminal or a notebook."""

    def __init__(self, progress: Progress | Literal[True] | None, total: int) -> None:
        self._progress = _show() if progress is True else progress
        self._total, self._done = total, 0

    def add(self, amount: int) -> None:
        """So much more is done."""
        self._done += amount
        if self._progress is not None:
            self._progress(self._done, self._total)


def _show() -> Progress:
    bar: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=None if total < 0 else total, desc="sampling")
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


@dataclass(frozen=True, kw_only=True)
class Run:
    """How one call runs: keywords of every method that draws.

    Attributes:
        seed, indices: an item's random numbers depend on the seed and its index only; without indices the items are
            0, 1, ...; with indices and no labels there are as many items as indices.
        negative: a class, text or embeddings that guidance leads away from, in place of "any".
        progress: called with (tokens or steps done, in all, or -1 for a stream without end); True shows a bar.
        compile: use `torch.compile`.
    """

    seed: int = 0
    indices: Sequence[int] | None = None
    negative: int | str | Tensor | None = None
    progress: Progress | Literal[True] | None = None
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class Request(Run, Generic[Options]):
    """What one call asks for, checked.

    Attributes:
        labels: (b,) ids of the items' classes, `Generator.any_class` for none; or their conditions.
        others: as labels, what guidance leads away from.
        indices: the items' numbers.
        batches: slices of items that are drawn at once.
        prompt: (b, 3, T0, H, W) frames that the results begin with.
        size: (T, H, W) of the results in pixels; T is `ENDLESS` in a stream without end.
        sampling: how tokens are drawn.
    """

    labels: Tensor
    others: Tensor
    indices: Sequence[int]
    batches: list[slice]
    prompt: Tensor | None
    size: tuple[int, int, int]
    sampling: Options


def split_batches(count: int, batch_size: int | None) -> list[slice]:
    """Slices of at most `batch_size` items; None: all at once.

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    size = batch_size or count
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def as_video(frames: Tensor, channels: int, what: str = "frames to go on from") -> Tensor:
    """(b, channels, T, H, W) of images or videos, which errors call `what`.

    Raises:
        ValueError: neither.
    """
    if not isinstance(frames, Tensor) or frames.ndim not in (4, 5) or frames.shape[1] != channels or 0 in frames.shape:
        found = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"{what} must be (b, {channels}, …, H, W) of images or videos, found {found}")
    return frames.unsqueeze(2) if frames.ndim == 4 else frames
