"""The flags of `omnitok generate` for what is made of given files: continuations, fillings, videos between two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from omnitok.cli.failures import UsageError, naming_options
from omnitok.cli.options import SAID, require_least

if TYPE_CHECKING:
    from omnitok.generation.loading import AnyGenerator
    from omnitok.generation.work import Work

GivenFile = Annotated[Path | None, tyro.conf.arg(metavar="IMAGE|VIDEO"), SAID]


@dataclass(frozen=True, kw_only=True)
class GivenFlags:
    """What the results are made of, where they are no samples."""

    frames: Annotated[int | None, tyro.conf.arg(metavar="N"), SAID] = None
    """Frames of a video, given ones included; memory does not grow beyond the trained length (default: an image, or of
    what is made of videos the trained length)."""
    video: Annotated[Path | None, tyro.conf.arg(metavar="VIDEO"), SAID] = None
    """A video to continue. What is larger than the model is brought to its size: the largest centred square."""
    given: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """Frames of --video to continue from; with --interpolate, frames to take of either video."""
    mark: bool = False
    """With --video: draw a red border around the given frames."""
    inpaint: GivenFile = None
    """An image or a video to fill where --mask says so; the rest stays as it is."""
    mask: GivenFile = None
    """For --inpaint, white where to fill: an image (for all frames), or a video as long as what is filled."""
    outpaint: GivenFile = None
    """An image or a video to make margins around; what is larger than the model with its margins is made smaller."""
    padding: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS..."), SAID] = ()
    """Margins of --outpaint: left, right, top and bottom, or one number for all."""
    interpolate: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="IMAGE|VIDEO IMAGE|VIDEO"), SAID] = None
    """Make a video from the first to the second: of two images, or of the end of a video and the start of another."""

    @property
    def given_files(self) -> list[Path]:
        """All files that are read."""
        return [
            path for path in (self.video, self.inpaint, self.mask, self.outpaint, *(self.interpolate or ())) if path
        ]

    @property
    def _is_padded(self) -> bool:
        return len(self.padding) in (1, 4) and min(self.padding) >= 0 and any(self.padding)

    def check_given(self, is_alone: bool) -> None:
        """Raise UsageError where the options alone make no sense.

        Args:
            is_alone: nothing is asked for that is for samples only.
        """
        require_least(self, frames=1, given=1)
        tasks = [f"--{name}" for name in ("video", "inpaint", "outpaint", "interpolate") if getattr(self, name)]
        task = tasks[0] if tasks else None
        for is_wrong, sentence in (
            (len(tasks) > 1, f"{' and '.join(tasks)} are different work: give one of them"),
            (self.mark and task != "--video", "--mark is for --video"),
            (self.mask and task != "--inpaint", "--mask is for --inpaint"),
            (task == "--inpaint" and not self.mask, "--inpaint needs --mask, an image or a video, white where to fill"),
            (self.padding and task != "--outpaint", "--padding is for --outpaint"),
            (
                task == "--outpaint" and not self._is_padded,
                "--outpaint needs --padding, one number of pixels, or those of left, right, top and bottom, 0 or more "
                f"and not all 0, found {' '.join(map(str, self.padding)) or 'none'}",
            ),
            (task and not is_alone, f"{task} takes no --grid, no --shard and at most one label"),
            (
                task == "--video" and self.frames is not None and self.frames <= self.given,
                f"--frames must be more than the {self.given} frames given, found {self.frames}",
            ),
        ):  # fmt: skip
            if is_wrong:
                raise UsageError(sentence)

    def plan_work(self, generator: AnyGenerator) -> Work:
        """What is asked for, the files read.

        Raises:
            UsageError: the options do not go together with the files.
            OmnitokError: a file cannot be read, or is not what is accepted.
        """
        from omnitok.generation import work

        with naming_options():
            if self.video:
                return work.continuation(generator, self.video, self.given, self.frames, self.mark)
            if self.inpaint and self.mask:
                return work.inpainting(generator, self.inpaint, self.mask, self.frames)
            if self.outpaint:
                left, right, top, bottom = self.padding * 4 if len(self.padding) == 1 else self.padding
                return work.outpainting(generator, self.outpaint, (left, right, top, bottom), self.frames)
            if self.interpolate:
                return work.interpolation(generator, *self.interpolate, self.given, self.frames)
            return work.sampling(generator, self.frames)
