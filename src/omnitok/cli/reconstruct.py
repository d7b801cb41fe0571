"""`omnitok reconstruct`: images and videos through the tokenizer and back, and figures that tell what was lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnitok.cli.options import FrameRate, MediaInputs, ModelOptions, Output
from omnitok.cli.report import Column, Report, Row, cell, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from omnitok.cli.naming import Job

COLUMNS = (
    Column("size", lambda row: f"{row['width']}x{row['height']}"),
    Column("frames", cell("frames")),
    Column("tokens", cell("tokens")),
    Column("bits/pixel", cell("bits_per_pixel", 4), mean_of="bits_per_pixel"),
    Column("PSNR dB", cell("psnr", 2), mean_of="psnr"),
    Column("SSIM", cell("ssim", 4), mean_of="ssim"),
    Column("seconds", cell("seconds", 2), mean_of="seconds"),
)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(ModelOptions):
    """Encode images and videos, decode them again, write the results and say how good they are.

    Takes files, or folders of them. Images become PNG, videos MP4 with their sound and the times of their frames; an
    animated GIF stays one, and so do .npy and multi-band TIFF. Videos are streamed, so their length costs no memory;
    released models cannot stream and take a video as a whole.

    Bits per pixel are the bits of the tokens divided by frames x height x width: log2 of the codebook's size per code,
    or 16 bits (float16) for each number of a VAE's latents. PSNR and SSIM are means over frames.
    """

    inputs: MediaInputs = ()
    """Images, videos, or folders of them."""
    out: Output = Path("omnitok-output")
    """Folder or URL for the results; for one input also a file, such as result.png or result.webm."""
    fps: FrameRate = None
    """Sample videos at this many frames per second instead of taking every frame."""
    side_by_side: bool = False
    """Write each result with its original to the left of it."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        report = Report(COLUMNS, self.json)
        if not self.can_begin(self.inputs, "image, video or folder", report, self.fps):
            return report.finish()
        from omnitok.cli.jobs import note_if_whole, run_jobs
        from omnitok.cli.loading import load_model
        from omnitok.cli.naming import plan_jobs, result_suffix
        from omnitok.data import WRITTEN_SUFFIXES, list_media
        from omnitok.tokenization.files import reconstruct_file

        model = load_model(self)
        tokenizer, pixel_format = model.tokenizer, model.pixel_format
        jobs = plan_jobs(
            self.inputs,
            self.out,
            WRITTEN_SUFFIXES,
            lambda path: list_media(path, pixel_format.has_arrays),
            lambda path: result_suffix(path, pixel_format),
        )
        how: dict[str, Any] = {"tile": self.tile, "fps": self.fps, "side_by_side": self.side_by_side}

        def work(job: Job, progress: Callable[[int, int | None], None]) -> Row:
            note_if_whole(tokenizer, job.source)
            done = reconstruct_file(tokenizer, job.source, job.output, progress=progress, **how)
            row: Row = {"width": done.width, "height": done.height, "frames": done.frames, "tokens": done.tokens}
            row |= {"bits_per_pixel": round(done.bits_per_pixel, 6)}
            row |= {"psnr": number(done.psnr, 4), "ssim": number(done.ssim, 6)}
            digits = {"psnr": 4, "ssim": 6}
            of_channels = done.per_channel.items()
            return row | {f"{k}_per_channel": [number(x, digits[k]) for x in values] for k, values in of_channels}

        run_jobs(jobs, report, work)
        return report.finish(f"Results are in {self.out}")
