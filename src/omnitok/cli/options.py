"""Options that verbs share. Frozen dataclasses; tyro turns fields into flags and their docstrings into help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from omnitok.cli.failures import UsageError
from omnitok.cli.report import Report
from omnitok.errors import MediaError, OmnitokError
from omnitok.files import expand
from omnitok.hub.names import find_files, library_of
from omnitok.memory import prepare_for_streams

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "omnitok-tiny-vq"

MediaInputs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT...")]
TokenFiles = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT")]
TileSide = Annotated[int | None, tyro.conf.arg(metavar="PIXELS")]
SAID = tyro.conf.arg(help_behavior_hint="")
"""For an option whose text says what happens without it, which tyro would call "(default: None)" once more."""
ChannelRanges = Annotated[str | None, tyro.conf.arg(metavar="LOW:HIGH[,...]"), SAID]
FrameRate = Annotated[float | None, tyro.conf.arg(metavar="RATE")]


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every verb takes."""

    device: str = "auto"
    """Where to compute: auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of all random numbers; the same command gives the same result."""
    json: bool = False
    """Print the result as JSON on stdout; progress and messages are on stderr either way."""

    def check_common(self) -> None:
        """Raise UsageError where the options alone, without any file, make no sense."""
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must lie in [0, 2^63), found {self.seed}")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(CommonOptions):
    """What verbs that run a tokenizer take."""

    model: Annotated[str, tyro.conf.arg(metavar="NAME|DIR|CKPT")] = DEFAULT_MODEL
    """The tokenizer: a name that `omnitok models` lists, a folder with config.json and model.safetensors, or a released
    checkpoint."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder and decoder; the bottleneck is always float32."""
    tile: TileSide = None
    """Work in square tiles of about this many pixels (at least one attention window, 64 for the models that ship), each
    with a halo: memory is then bounded by the tile, for images and videos. Above 4 megapixels without it: 1024."""
    ranges: ChannelRanges = None
    """Values of .npy, TIFF and 16-bit grey files that become -1 and 1, of all channels or of each: 0:10000 or
    0:1,-5:40 (--ranges=-5:40 if it begins with a minus). Default: those that the model was trained with, else all that
    whole numbers of the file's type can say."""

    def can_begin(self, inputs: tuple[Path, ...], what: str, report: Report, fps: float | None = None) -> bool:
        """Check the options, the model's name and the inputs before torch is imported, and prepare for videos.

        Args:
            what: the inputs are, for messages.
            report: gets a failed row for each of the inputs where none of them exists; then the answer is False.

        Raises:
            UsageError: options that make no sense, or no inputs.
            CheckpointError: no such model.
        """
        if not inputs:
            raise UsageError(f"give at least one {what}; --help shows the options")
        self.check_common()
        if self.tile is not None and self.tile < 1:
            raise UsageError(f"--tile must be a positive number of pixels, found {self.tile}")
        if fps is not None and not (math.isfinite(fps) and 0 < fps <= 1000):
            raise UsageError(f"--fps must be a number above 0 and at most 1000, found {fps}")
        problems = {}
        for path in inputs:
            try:
                expand(path)
                break
            except MediaError as error:
                problems[str(path)] = str(error)
        else:
            for source, problem in problems.items():
                report.fail(source, problem)
            return False
        channel_ranges(self.ranges)
        require_models(self.model or None)
        prepare_for_streams()
        return True


def require_least(options: object, **least: int) -> None:
    """Raise UsageError for an option that is given and below its least value."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {bound}, found {value}")


def channel_ranges(text: str | None) -> tuple[tuple[float, float], ...]:
    """What --ranges says; none without it.

    Raises:
        UsageError: another form, or an empty range.
    """
    if text is None:
        return ()
    from omnitok.data.pixel_format import parse_ranges

    try:
        return parse_ranges(text)
    except ValueError as error:
        raise UsageError(f"--ranges: {error}") from error


def parse_part(text: str | None) -> tuple[int, int]:
    """I and N of --shard I/N; 0 and 1 without it.

    Raises:
        UsageError: anything else.
    """
    part, separator, parts = (text or "0/1").partition("/")
    if not (separator and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise UsageError(f"--shard must be I/N with I from 0 to N - 1, such as 0/2, found {text}")
    return int(part), int(parts)


def require_paths(*paths: Path) -> None:
    """Say at once, before torch is imported, which file or folder does not exist.

    Raises:
        OmnitokError: there is none of that name.
    """
    for path in paths:
        expand(path)


def require_models(*names: str | None) -> None:
    """Say at once, before torch is imported, which name stands for no model; None is not asked for, nor is
    `LIBRARY:NAME`, which is for the library to find.

    Raises:
        CheckpointError: no bundled or released model, folder, file or hub id of that name.
    """
    for name in names:
        if name is not None and library_of(name) is None:
            find_files(name)


def resolve_device(name: str) -> torch.device:
    """The device of that name, or for "auto" the best there is.

    Raises:
        UsageError: not a device's name.
        OmnitokError: this machine has no such device.
    """
    import torch

    available = ["cpu"]  # from the plainest to the best
    if torch.backends.mps.is_available():
        available.append("mps")
    if torch.cuda.is_available():
        available.append("cuda")
    if name == "auto":
        return torch.device(available[-1])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device must be auto, cpu, cuda, cuda:N or mps, found {name!r}") from error
    exists = device.type in available and (device.type != "cuda" or (device.index or 0) < torch.cuda.device_count())
    if not exists:
        raise OmnitokError(
            f"--device {name}: this machine or this build of torch has no such device, only {', '.join(available)}"
        )
    return device


_SETTINGS_CALLED = {
    "learning_rate": ("lr",),
    "num_workers": ("workers",),
    "image_size": ("resolutions",),
    "resolution": ("resolutions", "resolution"),
}
"""What others call settings -> ours."""


def check_no_settings(arguments: Sequence[str], options: type[Any]) -> None:
    """Raise UsageError for what is given to `train` as an option and is a setting of its recipe."""
    known = {field.name for field in fields(options)} | {"help", "h"}
    given = [argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")]
    for flag in given:
        key = flag.replace("-", "_")
        if key in known or not key:
            continue
        from omnitok.training.config import CONFIG_KINDS
        from omnitok.training.settings import setting_names

        names = {name: None for kind in CONFIG_KINDS.values() for name in setting_names(kind)}
        found = [name for name in names if name.rpartition(".")[2] in _SETTINGS_CALLED.get(key, (key,))]
        if found:
            hint = " or ".join(f"--set {name}=..." for name in found)
            raise UsageError(f"--{flag}: is a setting of the recipe, {hint}; --dry-run shows them all")
