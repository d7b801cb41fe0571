"""`omnitok encode`: pictures and clips to token files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omnitok.cli.memory import ask_for_large_pages
from omnitok.cli.options import FrameRate, MediaInputs, ModelOptions, Output, check_rate, require_some
from omnitok.cli.report import Column, Report, Row, cell, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from omnitok.cli.loading import LoadedModel
    from omnitok.cli.naming import Job

COLUMNS = (
    Column("shape", lambda row: "x".join(map(str, row["shape"]))),
    Column("tokens", cell("tokens")),
    Column("bits/pixel", cell("bits_per_pixel", 4)),
    Column("seconds", cell("seconds", 2)),
)


@dataclass(frozen=True, kw_only=True)
class Encode(ModelOptions):
    """Write the tokens of each picture and clip as one .safetensors file.

    It holds `codes` (t, h, w) or `latents` (c, t, h, w), without t for a picture, and in its metadata the size, the
    frame rate, the source, and the name and weight hash of the model, which `omnitok decode` checks. Sound is not kept.
    """

    inputs: MediaInputs = ()
    """Pictures, clips, or folders of them."""
    out: Output = Path("omnitok-tokens")
    """Folder for the token files; for one input also a file, such as a.safetensors."""
    fps: FrameRate = None
    """Sample clips at this many frames a second instead of taking every frame."""
    latent_dtype: Literal["float32", "float16"] = "float32"
    """How a VAE's latents are stored; codes are stored in the smallest integers that hold them."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        require_some(self.inputs, "picture, clip or folder")
        self.check_model_options()
        check_rate(self.fps)
        ask_for_large_pages()
        from omnitok.cli.loading import load_model
        from omnitok.cli.naming import kind_of_media, media_files, plan_jobs
        from omnitok.cli.reconstruct import run_jobs

        jobs = plan_jobs(
            self.inputs, self.out, [".safetensors"], media_files, kind_of_media, lambda kind, source: ".safetensors"
        )
        model = load_model(self)
        report = Report(COLUMNS, self.json)
        run_jobs(jobs, report, lambda job: self._one(model, job))
        return report.finish(f"Tokens are in {self.out}")

    def _one(self, model: LoadedModel, job: Job) -> Row:
        from omnitok.cli.coding import bits_per_pixel, token_count
        from omnitok.cli.token_files import TokenHeader, write_tokens

        started = time.perf_counter()
        tokens, (frames, height, width), fps = (
            self._picture(model, job) if job.kind == "image" else self._clip(model, job)
        )
        header = TokenHeader(job.kind, frames, height, width, fps, model.name, model.sha256, job.source.name)
        write_tokens(job.output, tokens, header)
        config = model.tokenizer.config
        return {
            "input": str(job.source),
            "output": str(job.output),
            "shape": list(tokens.shape),
            "tokens": token_count(config, frames, height, width),
            "bits_per_pixel": round(bits_per_pixel(config, frames, height, width), 6),
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _picture(self, model: LoadedModel, job: Job) -> tuple[Tensor, tuple[int, int, int], None]:
        from omnitok.cli.coding import encode_picture
        from omnitok.data import read_image

        pixels = read_image(job.source)
        tokens = encode_picture(model.tokenizer, pixels, self.tile)
        return self._stored(model, tokens), (1, pixels.shape[1], pixels.shape[2]), None

    def _clip(self, model: LoadedModel, job: Job) -> tuple[Tensor, tuple[int, int, int], float]:
        import torch

        from omnitok.cli.coding import encode_clip, frames_at_once
        from omnitok.cli.reconstruct import note_if_whole
        from omnitok.data import VideoReader

        with VideoReader(job.source, fps=self.fps) as reader:
            note_if_whole(model.tokenizer, job.source)
            frames = 0

            def counted(bar: object) -> Iterator[Tensor]:
                nonlocal frames
                at_once = frames_at_once(model.tokenizer.config, reader.height, reader.width, self.tile)
                for piece in reader.chunks(at_once):
                    frames += piece.shape[1]
                    bar.update(piece.shape[1])  # type: ignore[attr-defined]  # tqdm has no types
                    yield piece

            with progress_bar(reader.frame_count, str(job.source), "frame") as bar:
                pieces = encode_clip(model.tokenizer, counted(bar), self.tile)
                stored = [self._stored(model, piece[0].cpu()) for piece in pieces]
        tokens = torch.cat(stored, dim=1 if stored[0].is_floating_point() else 0)
        return tokens, (frames, reader.height, reader.width), reader.fps

    def _stored(self, model: LoadedModel, tokens: Tensor) -> Tensor:
        import torch

        from omnitok.cli.token_files import compact_codes

        if tokens.is_floating_point():
            return tokens.to(torch.float16 if self.latent_dtype == "float16" else torch.float32)
        return compact_codes(tokens, model.tokenizer.config.codebook_size)
