"""`omnitok decode`: token files to images and videos."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from omnitok.cli.options import SAID, ModelOptions, Output, TokenFiles, channel_ranges, resolve_device
from omnitok.cli.report import Column, Report, Row, cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from omnitok.cli.naming import Job

COLUMNS = (
    Column("size", lambda row: f"{row['shape'][-1]}x{row['shape'][-2]}"),
    Column("frames", lambda row: str(row["shape"][1] if len(row["shape"]) == 4 else 1)),
    Column("seconds", cell("seconds", 2)),
)


@dataclass(frozen=True, kw_only=True)
class Decode(ModelOptions):
    """Decode token files to images (PNG) and videos (MP4), or to GIF, .npy or TIFF where the source was one.

    The hash of the weights in a file must be that of the model that decodes it.
    """

    inputs: TokenFiles = ()
    """Files that `omnitok encode` wrote, or folders of them."""
    out: Output = Path("omnitok-output")
    """Folder or URL for the results; for one input also a file, such as result.png or result.webm."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|DIR|CKPT"), SAID] = ""
    """The tokenizer (default: the one that each file names, if that is on this machine)."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        report = Report(COLUMNS, self.json)
        if not self.can_begin(self.inputs, "token file or folder of them", report):
            return report.finish()
        from omnitok.cli.jobs import note_if_whole, run_jobs
        from omnitok.cli.loading import load_model
        from omnitok.cli.naming import plan_jobs
        from omnitok.data import WRITTEN_SUFFIXES
        from omnitok.data.token_file import SUFFIX
        from omnitok.files import find_files
        from omnitok.tokenization.files import decode_file

        def files(path: Path) -> list[Path]:
            return find_files(path, frozenset({SUFFIX}), f"{SUFFIX} files")

        resolve_device(self.device)
        jobs = plan_jobs(self.inputs, self.out, WRITTEN_SUFFIXES, files, _result_suffix)
        load = cache(lambda name: load_model(replace(self, model=name)))
        if self.model:
            load(self.model)

        def work(job: Job, progress: Callable[[int, int | None], None]) -> Row:
            model = load(self.model or _named_model(job.source))
            note_if_whole(model.tokenizer, job.output)
            how: dict[str, Any] = {"model": model.name, "model_sha256": model.sha256, "tile": self.tile}
            how["ranges"] = channel_ranges(self.ranges)
            done = decode_file(model.tokenizer, job.source, job.output, progress=progress, **how)
            return {"shape": list(done.shape)}

        run_jobs(jobs, report, work)
        return report.finish(f"Results are in {self.out}")


def _named_model(path: Path) -> str:
    """The model that a token file names. Anybody may have written the file, so nothing is fetched for it.

    Raises:
        OmnitokError: it is neither on this machine by that name nor where it was.
    """
    from omnitok.data.token_file import open_tokens
    from omnitok.errors import OmnitokError, describe
    from omnitok.hub.names import local_weights

    with open_tokens(path) as file:
        name = file.header.model
    if local_weights(name) is None and not Path(name).exists():
        raise OmnitokError(f"{path}: its model {describe(name)!r} is not here: give it with --model")
    return name


def _result_suffix(path: Path) -> str:
    """As for a reconstruction of the source that the file names."""
    from omnitok.cli.naming import suffix_for
    from omnitok.data.token_file import open_tokens

    with open_tokens(path) as file:
        return suffix_for(file.header.kind, file.header.source, file.header.dtype)
