"""`omnitok encode`: images and videos to token files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omnitok.cli.options import FrameRate, MediaInputs, ModelOptions, Output
from omnitok.cli.report import Column, Report, Row, cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from omnitok.cli.naming import Job

COLUMNS = (
    Column("shape", lambda row: "x".join(map(str, row["shape"]))),
    Column("tokens", cell("tokens")),
    Column("bits/pixel", cell("bits_per_pixel", 4)),
    Column("seconds", cell("seconds", 2)),
)


@dataclass(frozen=True, kw_only=True)
class Encode(ModelOptions):
    """Write the tokens of each image and video as one .safetensors file.

    The file holds `codes` (t, h, w) or `latents` (c, t, h, w), without t for an image, and of a video the duration of
    each frame and the sound track. Its metadata say the size, the frame rate, the source, and the name and weight hash
    of the model, which `omnitok decode` checks.
    """

    inputs: MediaInputs = ()
    """Images, videos, or folders of them."""
    out: Output = Path("omnitok-tokens")
    """Folder or URL for the token files; for one input also a file, such as a.safetensors."""
    fps: FrameRate = None
    """Sample videos at this many frames per second instead of taking every frame."""
    latent_dtype: Literal["float32", "float16"] = "float32"
    """How a VAE's latents are stored; codes are stored in the smallest integers that hold them."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        report = Report(COLUMNS, self.json)
        if not self.can_begin(self.inputs, "image, video or folder", report, self.fps):
            return report.finish()
        import torch

        from omnitok.cli.jobs import note_if_whole, run_jobs
        from omnitok.cli.loading import load_model
        from omnitok.cli.naming import plan_jobs
        from omnitok.data import detect_modality, list_media
        from omnitok.data.token_file import SUFFIX
        from omnitok.tokenization.files import encode_file

        def files(path: Path) -> list[Path]:
            return list_media(path, model.pixel_format.has_arrays)

        def suffix(source: Path) -> str:
            detect_modality(source)  # whatever is no image or video is told before the others are encoded
            return SUFFIX

        model = load_model(self)
        jobs = plan_jobs(self.inputs, self.out, frozenset({SUFFIX}), files, suffix)
        how: dict[str, Any] = {"model": model.name, "model_sha256": model.sha256, "tile": self.tile, "fps": self.fps}
        how["latent_dtype"] = getattr(torch, self.latent_dtype)

        def work(job: Job, progress: Callable[[int, int | None], None]) -> Row:
            note_if_whole(model.tokenizer, job.source)
            done = encode_file(model.tokenizer, job.source, job.output, progress=progress, **how)
            row: Row = {"shape": list(done.shape), "tokens": done.tokens}
            return row | {"bits_per_pixel": round(done.bits_per_pixel, 6)}

        run_jobs(jobs, report, work)
        return report.finish(f"Tokens are in {self.out}")
