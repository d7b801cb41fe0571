"""`omnitok reconstruct`: pictures and clips through the tokenizer and back, and figures that tell what was lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnitok.cli.failures import explain_for, show_traceback_if_debugging
from omnitok.cli.memory import ask_for_large_pages
from omnitok.cli.options import FrameRate, MediaInputs, ModelOptions, Output, check_rate, require_some
from omnitok.cli.report import Column, Report, Row, cell, number, progress_bar, say

if TYPE_CHECKING:
    from omnitok.cli.naming import Job
    from omnitok.models.tokenizer import OmniTokenizer

COLUMNS = (
    Column("size", lambda row: f"{row['width']}x{row['height']}"),
    Column("frames", cell("frames")),
    Column("tokens", cell("tokens")),
    Column("bits/pixel", cell("bits_per_pixel", 4)),
    Column("PSNR dB", cell("psnr", 2)),
    Column("SSIM", cell("ssim", 4)),
    Column("seconds", cell("seconds", 2)),
)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(ModelOptions):
    """Encode pictures and clips, decode them again, write the results and say how good they are.

    Takes files, or folders of them. Pictures become PNG, clips MP4 with their sound (an animated GIF stays one). Clips
    are streamed, so their length costs no memory; released models cannot stream and take a clip as a whole.

    Bits per pixel are those of the tokens over frames x height x width: log2 of the codebook's size a code, or 16 bits
    (float16) for each number of a VAE's latents. PSNR and SSIM are means over frames.
    """

    inputs: MediaInputs = ()
    """Pictures, clips, or folders of them."""
    out: Output = Path("omnitok-output")
    """Folder for the results; for one input also a file, such as result.png or result.webm."""
    fps: FrameRate = None
    """Sample clips at this many frames a second instead of taking every frame."""
    side_by_side: bool = False
    """Write each result with its original to the left of it."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        require_some(self.inputs, "picture, clip or folder")
        self.check_model_options()
        check_rate(self.fps)
        ask_for_large_pages()
        from omnitok.cli.loading import load_model
        from omnitok.cli.naming import kind_of_media, media_files, plan_jobs, reconstruction_suffix
        from omnitok.data import IMAGE_SUFFIXES, VIDEO_SUFFIXES

        jobs = plan_jobs(
            self.inputs, self.out, IMAGE_SUFFIXES | VIDEO_SUFFIXES, media_files, kind_of_media, reconstruction_suffix
        )
        model = load_model(self)
        report = Report(COLUMNS, self.json)
        run_jobs(jobs, report, lambda job: self._one(model.tokenizer, job))
        return report.finish(f"Results are in {self.out}")

    def _one(self, tokenizer: OmniTokenizer, job: Job) -> Row:
        started = time.perf_counter()
        row = self._picture(tokenizer, job) if job.kind == "image" else self._clip(tokenizer, job)
        return row | {"seconds": round(time.perf_counter() - started, 3)}

    def _picture(self, tokenizer: OmniTokenizer, job: Job) -> Row:
        import torch

        from omnitok.cli.coding import decode_picture, encode_picture
        from omnitok.cli.quality import FrameQuality
        from omnitok.data import read_image, write_image

        original = read_image(job.source)  # (3, H, W)
        height, width = original.shape[1:]
        tokens = encode_picture(tokenizer, original, self.tile)
        result = decode_picture(tokenizer, tokens, (height, width), self.tile)
        quality = FrameQuality()
        quality.add(original[:, None], result[:, None])
        write_image(job.output, torch.cat([original, result], dim=-1) if self.side_by_side else result)
        return _row(tokenizer, job, quality, height, width)

    def _clip(self, tokenizer: OmniTokenizer, job: Job) -> Row:
        import torch

        from omnitok.cli.coding import HeldFrames, decode_clip, encode_clip, frames_at_once
        from omnitok.cli.quality import FrameQuality
        from omnitok.data import VideoReader, VideoWriter

        quality = FrameQuality()
        with VideoReader(job.source, fps=self.fps) as reader:
            height, width = reader.height, reader.width
            at_once = frames_at_once(tokenizer.config, height, width, self.tile)
            note_if_whole(tokenizer, job.source)
            originals = HeldFrames(reader.chunks(at_once))
            tokens = encode_clip(tokenizer, originals, self.tile)
            sound = job.source if reader.has_audio else None
            written_width = 2 * width if self.side_by_side else width
            with (
                VideoWriter(job.output, reader.fps, written_width, height, audio_from=sound) as writer,
                progress_bar(reader.frame_count, str(job.source), "frame") as bar,
            ):
                for result in decode_clip(tokenizer, tokens, (height, width), self.tile):
                    original = originals.take(result.shape[1])  # fewer where the last patch was filled up
                    result = result[:, : original.shape[1]]
                    quality.add(original, result)
                    writer.write(torch.cat([original, result], dim=-1) if self.side_by_side else result)
                    bar.update(original.shape[1])
        return _row(tokenizer, job, quality, height, width)


def _row(tokenizer: OmniTokenizer, job: Job, quality: Any, height: int, width: int) -> Row:
    from omnitok.cli.coding import bits_per_pixel, token_count

    frames = quality.frames
    return {
        "input": str(job.source),
        "output": str(job.output),
        "width": width,
        "height": height,
        "frames": frames,
        "tokens": token_count(tokenizer.config, frames, height, width),
        "bits_per_pixel": round(bits_per_pixel(tokenizer.config, frames, height, width), 6),
        "psnr": number(quality.psnr, 4),
        "ssim": number(quality.ssim, 6),
    }


def run_jobs(jobs: list[Job], report: Report, work: Callable[[Job], Row]) -> None:
    """Every job's row into the report; one that fails is reported and the others go on."""
    import torch

    with progress_bar(len(jobs), "files", "file") as bar, torch.inference_mode():
        for job in jobs:
            if job.error is not None:
                report.fail(str(job.source), job.error)
            else:
                try:
                    report.add(work(job))
                except Exception as error:
                    show_traceback_if_debugging()
                    report.fail(str(job.source), explain_for(job.source, error))
            bar.update()


def note_if_whole(tokenizer: OmniTokenizer, source: Path) -> None:
    """Say that a clip will be in memory as a whole, where the tokenizer cannot stream."""
    if not tokenizer.config.streamable:
        say(f"note: {source}: this model cannot stream (not causal), so the whole clip is in memory; --fps thins it")
