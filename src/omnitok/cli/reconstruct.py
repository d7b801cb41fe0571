"""`omnitok reconstruct`: images and videos through the tokenizer and back, and figures that tell what was lost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omnitok.cli.memory import prepare_for_streams
from omnitok.cli.options import FrameRate, MediaInputs, ModelOptions, Output, check_rate, require_some
from omnitok.cli.report import Column, Report, Row, cell, frame_bar, number, say

if TYPE_CHECKING:
    from omnitok.cli.jobs import Job
    from omnitok.models.tokenizer import OmniTokenizer

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

    Takes files, or folders of them. Images become PNG, videos MP4 with their sound and the times of their frames (an
    animated GIF stays one). Videos are streamed, so their length costs no memory; released models cannot stream and
    take a video as a whole.

    Bits per pixel are those of the tokens over frames x height x width: log2 of the codebook's size per code, or 16
    bits (float16) for each number of a VAE's latents. PSNR and SSIM are means over frames.
    """

    inputs: MediaInputs = ()
    """Images, videos, or folders of them."""
    out: Output = Path("omnitok-output")
    """Folder for the results; for one input also a file, such as result.png or result.webm."""
    fps: FrameRate = None
    """Sample videos at this many frames per second instead of taking every frame."""
    side_by_side: bool = False
    """Write each result with its original to the left of it."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        require_some(self.inputs, "image, video or folder")
        self.check_model_options()
        check_rate(self.fps)
        prepare_for_streams()
        from omnitok.cli.jobs import plan_jobs, result_suffix, run_jobs
        from omnitok.cli.loading import load_model
        from omnitok.data import WRITTEN_SUFFIXES, list_media

        jobs = plan_jobs(self.inputs, self.out, WRITTEN_SUFFIXES, list_media, result_suffix)
        model = load_model(self)
        report = Report(COLUMNS, self.json)
        run_jobs(jobs, report, lambda job: self._one(model.tokenizer, job))
        return report.finish(f"Results are in {self.out}")

    def _one(self, tokenizer: OmniTokenizer, job: Job) -> Row:
        from omnitok.tokenization.files import reconstruct_file

        started = time.perf_counter()
        note_if_whole(tokenizer, job.source)
        with frame_bar(job.source) as progress:
            done = reconstruct_file(
                tokenizer,
                job.source,
                job.output,
                tile=self.tile,
                fps=self.fps,
                side_by_side=self.side_by_side,
                progress=progress,
            )
        return {
            "input": str(job.source),
            "output": str(job.output),
            "width": done.width,
            "height": done.height,
            "frames": done.frames,
            "tokens": done.tokens,
            "bits_per_pixel": round(done.bits_per_pixel, 6),
            "psnr": number(done.psnr, 4),
            "ssim": number(done.ssim, 6),
            "seconds": round(time.perf_counter() - started, 3),
        }


def note_if_whole(tokenizer: OmniTokenizer, source: Path) -> None:
    """Say that a video will be in memory as a whole, where the tokenizer cannot stream."""
    from omnitok.data import VIDEO_SUFFIXES

    if not tokenizer.causal and source.suffix.lower() in VIDEO_SUFFIXES:
        say(f"note: {source}: this model cannot stream (not causal), so the whole video is in memory; --fps thins it")
