"""`omnitok generate`: images and videos from a trained generator, or what it makes of given ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from omnitok.cli.failures import UsageError, explain_for, naming_options, show_traceback_if_debugging
from omnitok.cli.given import GivenFlags
from omnitok.cli.options import (
    SAID,
    CommonOptions,
    Output,
    parse_part,
    require_least,
    require_models,
    require_paths,
    resolve_device,
)
from omnitok.cli.report import Column, Report, Row, cell, progress_bar, say
from omnitok.cli.sampling import SamplingFlags, check_kind, given_options

COLUMNS = (
    Column("label", lambda row: cell("text" if row.get("text") else "label")(row)),
    Column("seed", cell("seed")),
    Column("seconds", cell("seconds", 2)),
)
Count = Annotated[int, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Generate(SamplingFlags, GivenFlags, CommonOptions):
    """Generate images (PNG) and videos (MP4) with a trained generator, or continue, fill, widen or join given ones.
    Channels that those do not have become .npy.

    A sample depends on the seed and its number only, not on the batch size or the number of processes. After an
    interruption the same command continues: finished samples are kept. Several processes can share the work in one
    folder: --shard 0/2 and --shard 1/2, or torchrun --nproc-per-node 2 -m omnitok generate ...

    Options that are not given have the model's own defaults.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The generator: a name that `omnitok models` lists, a folder, or a hub id."""
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLASS..."), SAID] = ()
    """Classes by name or number, or "all" (default: samples of any class)."""
    text: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT..."), SAID] = ()
    """Of a model of texts: what the samples are to show (default: anything)."""
    embeddings: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE..."), SAID] = ()
    """Of a model of embeddings: .npy files (n, d), of a model of sounds also files with sound (default: anything)."""
    negative: Annotated[str | None, tyro.conf.arg(metavar="CLASS|TEXT"), SAID] = None
    """What guidance leads away from (default: the model's samples of anything)."""
    count: Count = 1
    """Samples of each class or text, or variants of what is made of given files."""
    grid: bool = False
    """Also write the first samples of each class or text side by side, as grid.png or grid.mp4."""
    npz: bool = False
    """Also write all images to samples.npz, the format of ADM's evaluator."""
    out: Output = Path("omnitok-samples")
    """Folder or URL for the samples; for one result made of given files also a file, such as out.mp4."""
    batch_size: Count = 16
    """Samples at a time."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Make only every N-th sample from the I-th on, counted from 0."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR")] = None
    """The generator's tokenizer, if it is no longer where the model's settings say."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        options = self._check()
        require_paths(*self.given_files, *self.embeddings)
        require_models(self.model, self.tokenizer)
        import torch

        from omnitok.distributed import launched_device, launched_place
        from omnitok.generation import sample_folder
        from omnitok.generation.asked import parse_asked, parse_negative
        from omnitok.generation.loading import load_generator
        from omnitok.generation.request import split_batches
        from omnitok.generation.work import pixel_format_of

        device, dtype = resolve_device(launched_device(self.device)), getattr(torch, self.dtype)
        generator = load_generator(self.model, device, dtype, self.tokenizer)
        check_kind(options, generator.sampling_type, self.model)
        work = self.plan_work(generator)
        pixel_format = pixel_format_of(generator)
        if self.npz and pixel_format.channels != 3:
            raise UsageError(f"--npz is for colour, and this model's pixels have {pixel_format.channels} channels")
        with naming_options():
            asked = parse_asked(generator, self.labels, self.text, self.embeddings)
            away = {} if self.negative is None else {"negative": parse_negative(generator, self.negative)}
            files = sample_folder.plan_files(asked, self.count, self.out, work, pixel_format)
        (rank, world_size), (part, parts) = launched_place(), parse_part(self.shard)
        own = files[part * world_size + rank :: parts * world_size]
        kind = "texts" if self.text else "embeddings" if self.embeddings else "labels"
        run: dict[str, Any] = {"model": self.model, kind: [each.note for each in asked], **away}
        run |= {"frames": self.frames, "seed": self.seed, "dtype": self.dtype}
        rows: dict[int, Row] = {}
        holding = sample_folder.hold_folder(
            None if work.given else self.out, generator, run, options, parts * world_size > 1
        )
        with holding, progress_bar(len(own), str(self.out), "sample") as bar:
            missing = [file for file in own if work.given or not file.path.exists()]
            bar.update(len(own) - len(missing))
            size = 1 if work.is_long else self.batch_size
            for batch in [missing[part] for part in split_batches(len(missing), size)]:
                started = time.perf_counter()
                how: dict[str, Any] = {"seed": self.seed, "indices": [file.index for file in batch], **options, **away}
                try:
                    pieces = work.draw([file.asked.value for file in batch], **how)
                    sample_folder.write_samples([file.path for file in batch], pieces, work.fps, pixel_format)
                    seconds = round((time.perf_counter() - started) / len(batch), 3)
                    rows |= {file.index: {"seconds": seconds} for file in batch}
                except Exception as error:
                    show_traceback_if_debugging()
                    rows |= {file.index: {"error": explain_for(file.path, error)} for file in batch}
                bar.update(len(batch))
            if not sample_folder.write_extras(files, self.out, work.fps, self.grid, self.npz, pixel_format) and (
                self.grid or self.npz
            ):
                say("the grid and the .npz are written by the process that finishes last")
        report = Report(COLUMNS, self.json, name_key="output")
        for file in own:
            row = rows.get(file.index, {"seconds": 0.0, "kept": True})
            shown = {"label": None, ("text" if self.text else "label"): file.asked.name}
            if "error" in row:
                report.fail(str(file.path), row["error"])
                continue
            report.add({"output": str(file.path), **shown, "index": file.index, "seed": self.seed} | row)
        return report.finish(f"Samples are in {self.out}")

    def _check(self) -> dict[str, Any]:
        """The sampling options that were given; UsageError where the options alone make no sense."""
        self.check_common()
        require_least(self, count=1, batch_size=1)
        if self.npz and (self.frames is not None or self.given_files):
            raise UsageError("--npz is for images")
        self.check_given(
            not self.grid and self.shard is None and max(map(len, (self.labels, self.text, self.embeddings))) < 2
        )
        parse_part(self.shard)
        return given_options(self)
