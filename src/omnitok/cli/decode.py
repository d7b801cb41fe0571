"""`omnitok decode`: token files to pictures and clips."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omnitok.cli.memory import ask_for_large_pages
from omnitok.cli.options import ModelOptions, Output, TokenFiles, require_some
from omnitok.cli.report import Column, Report, Row, cell, progress_bar

if TYPE_CHECKING:
    from omnitok.cli.loading import LoadedModel
    from omnitok.cli.naming import Job
    from omnitok.cli.token_files import TokenFile

COLUMNS = (
    Column("size", lambda row: f"{row['shape'][-1]}x{row['shape'][-2]}"),
    Column("frames", lambda row: str(row["shape"][1] if len(row["shape"]) == 4 else 1)),
    Column("seconds", cell("seconds", 2)),
)


@dataclass(frozen=True, kw_only=True)
class Decode(ModelOptions):
    """Bring back the pictures (PNG) and clips (MP4, or GIF where the source was one) of token files.

    Needs the model that made the tokens: the weights' hash in the file is compared with this model's.
    """

    inputs: TokenFiles = ()
    """Files that `omnitok encode` wrote, or folders of them."""
    out: Output = Path("omnitok-output")
    """Folder for the results; for one input also a file, such as result.png or result.webm."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        require_some(self.inputs, "token file or folder of them")
        self.check_model_options()
        ask_for_large_pages()
        from omnitok.cli.loading import load_model
        from omnitok.cli.naming import plan_jobs
        from omnitok.cli.reconstruct import run_jobs
        from omnitok.cli.token_files import kind_of_tokens, result_suffix, token_files
        from omnitok.data import IMAGE_SUFFIXES, VIDEO_SUFFIXES

        jobs = plan_jobs(
            self.inputs, self.out, IMAGE_SUFFIXES | VIDEO_SUFFIXES, token_files, kind_of_tokens, result_suffix
        )
        model = load_model(self)
        report = Report(COLUMNS, self.json)
        run_jobs(jobs, report, lambda job: self._one(model, job))
        return report.finish(f"Results are in {self.out}")

    def _one(self, model: LoadedModel, job: Job) -> Row:
        from omnitok.cli.token_files import open_tokens

        started = time.perf_counter()
        with open_tokens(job.source) as file:
            file.check_for(model.tokenizer.config, model.name, model.sha256)
            shape = self._picture(model, job, file) if job.kind == "image" else self._clip(model, job, file)
        seconds = round(time.perf_counter() - started, 3)
        return {"input": str(job.source), "output": str(job.output), "shape": shape, "seconds": seconds}

    def _picture(self, model: LoadedModel, job: Job, file: TokenFile) -> list[int]:
        from omnitok.cli.coding import decode_picture
        from omnitok.data import write_image

        size = (file.header.height, file.header.width)
        pixels = decode_picture(model.tokenizer, file.picture(), size, self.tile)
        write_image(job.output, pixels)
        return list(pixels.shape)

    def _clip(self, model: LoadedModel, job: Job, file: TokenFile) -> list[int]:
        from omnitok.cli.coding import decode_clip, frames_at_once
        from omnitok.cli.reconstruct import note_if_whole
        from omnitok.data import VideoWriter

        config, header = model.tokenizer.config, file.header
        assert header.fps is not None  # of a clip; checked when the header was read
        note_if_whole(model.tokenizer, job.source)
        at_once = frames_at_once(config, header.height, header.width, self.tile) // config.temporal_patch_size
        size = (header.height, header.width)
        left = header.frames
        with (
            VideoWriter(job.output, header.fps, header.width, header.height) as writer,
            progress_bar(header.frames, str(job.source), "frame") as bar,
        ):
            for pixels in decode_clip(model.tokenizer, file.pieces(at_once), size, self.tile):
                frames = pixels[:, :left]  # the last patch may have been filled up
                writer.write(frames)
                left -= frames.shape[1]
                bar.update(frames.shape[1])
        return [3, header.frames, *size]
