"""What is asked of a generator: labels, items, sizes and given frames, checked once for all kinds of them."""

from collections.abc import Callable, Sequence

from torch import Tensor

from omnitok.hub.generator_settings import GeneratorSettings

Labels = Tensor | Sequence[int | str | None] | int | str | None
"""Class numbers or names, one an item, or one for all; -1 and None are "any class"."""

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""


class Counter:
    """Counts what is done over all batches, for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, amount: int) -> None:
        """So much more is done."""
        self._done += amount
        if self._progress is not None:
            self._progress(self._done, self._total)


def items_of(
    labels: Labels, indices: Sequence[int] | None, prompts: int | None, settings: GeneratorSettings, num_classes: int
) -> tuple[list[int], list[int]]:
    """The label of each item, -1 for none, and its index.

    Args:
        indices: default 0, 1, ...
        prompts: number of given pictures or clips; None: nothing is given.
        settings: know the classes' names.

    Raises:
        ValueError: numbers that do not match, no items, labels that are no class.
    """
    if isinstance(labels, Tensor):
        labels = labels.tolist() if labels.ndim else [int(labels)]
    if labels is None or isinstance(labels, int | str):
        labels = [labels] * (prompts or (1 if indices is None else len(indices)))
    if prompts is not None and len(labels) == 1:
        labels = list(labels) * prompts
    count = len(labels)
    counts = {"given pictures or clips": prompts, "indices": None if indices is None else len(indices)}
    for what, other in counts.items():
        if other is not None and other != count:
            raise ValueError(f"{count} labels and {other} {what} do not match")
    if count == 0:
        raise ValueError("no items were asked for: labels are empty")
    numbers = [_class_number(label, settings, num_classes) for label in labels]
    return numbers, list(range(count)) if indices is None else list(indices)


def _class_number(label: int | str | None, settings: GeneratorSettings, num_classes: int) -> int:
    if isinstance(label, str):
        label = settings.label_of(label)
    if label is None or label == -1:
        return -1
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
        accepted = f"labels lie in [0, {num_classes - 1}]" if num_classes else "this model has no classes"
        raise ValueError(f"label {label} is out of range: {accepted}")
    return label


def size_of(
    settings: GeneratorSettings, frames: int, height: int | None, width: int | None, given: Tensor | None
) -> tuple[int, int, int]:
    """(T, H, W) of the result; height and width are those of the settings where they are None.

    Args:
        given: (b, 3, T0, H, W) frames that the result begins with.

    Raises:
        ValueError: sizes below 1, given frames of another size, or as many of them as are asked for.
    """
    height = settings.height if height is None else height
    width = settings.width if width is None else width
    if min(frames, height, width) < 1:
        raise ValueError(f"frames, height and width must be at least 1, found {(frames, height, width)}")
    if given is not None:
        if tuple(given.shape[3:]) != (height, width):
            raise ValueError(
                f"the given frames are {given.shape[3]} x {given.shape[4]} pixels, the model's are {height} x "
                f"{width}: resize them, or say height= and width="
            )
        if given.shape[2] >= frames:
            raise ValueError(f"{given.shape[2]} frames are given, so num_frames must be larger, found {frames}")
    return frames, height, width


def batches_of(count: int, batch_size: int | None) -> list[slice]:
    """Slices of at most `batch_size` items; None: all at once.

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    size = batch_size or count
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def as_clip(frames: Tensor | None) -> Tensor | None:
    """(b, 3, T, H, W) of pictures or clips.

    Raises:
        ValueError: neither.
    """
    if frames is None:
        return None
    if not isinstance(frames, Tensor) or frames.ndim not in (4, 5) or frames.shape[1] != 3 or 0 in frames.shape:
        found = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"frames to go on from must be (b, 3, T, H, W) or (b, 3, H, W), found {found}")
    return frames.unsqueeze(2) if frames.ndim == 4 else frames
