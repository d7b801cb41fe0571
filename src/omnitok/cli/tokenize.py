"""`omnitok tokenize`: a collection of pictures and clips to shards of tokens, and what is in such shards."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from omnitok.cli.failures import UsageError
from omnitok.cli.options import (
    DEFAULT_MODEL,
    CommonOptions,
    FrameRate,
    check_rate,
    parse_part,
    require_some,
)
from omnitok.cli.report import Row, progress_bar, say

if TYPE_CHECKING:
    from omnitok.cli.loading import LoadedModel
    from omnitok.tokenization.job import Progress, TokenizeJob

SHOWN_ERRORS = 5

Data = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA...")]
OutFolder = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="SHARDS")]
Count = Annotated[int, tyro.conf.arg(metavar="N")]
OptionalCount = Annotated[int | None, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Tokenize(CommonOptions):
    """Tokenize a collection into shards that train generators; omnitok.data.TokenShards reads them.

    A quantizer gives codes, a VAE the mean of its posterior. Killed at any moment, the same command with --resume
    goes on after the last finished shard. Files that cannot be read are skipped, counted and listed in errors.jsonl.
    Several processes or machines share the work, and make the same bytes as one: with --shard 0/2 and --shard 1/2 into
    one folder (the last to finish writes the index), with torchrun --nproc-per-node 2 -m omnitok tokenize ..., or with
    --engine ray.
    """

    data: Data = ()
    """Folders of pictures and clips, lists (.txt, .csv, .jsonl), WebDataset tars; with --inspect, folders of shards."""
    out: OutFolder = None
    """Folder for the shards (default: omnitok-shards); with --inspect, the .png for the sample."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR|CKPT")] = None
    """The tokenizer (default: omnitok-tiny-vq; with --inspect, the one that the shards name)."""
    resolution: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Cut out the largest centre square and bring it to this side (default: sizes as they are)."""
    frames: Count = 17
    """Cut clips into windows of so many frames; a shorter rest is dropped. 0 keeps clips whole, streaming long ones."""
    fps: FrameRate = None
    """Sample clips at this many frames a second instead of taking every frame."""
    views: Count = 1
    """Items of each file: the plain one, then random crops (with --resolution), mirror images and first frames."""
    crop_range: Annotated[float | None, tyro.conf.arg(metavar="RATIO")] = None
    """How many times as long as the side of a crop a file's short side may be; 1.1 leaves pictures nearly whole
    (default: crops of --resolution pixels or more)."""
    labels: Literal["auto", "folders", "none"] = "auto"
    """Classes of files in folders: the folders directly below DATA, if all files lie in such (auto), always, or never.
    Lists, manifests and tars give their own."""
    batch_size: Count = 16
    """Items encoded at a time."""
    shard_size: Count = 1024
    """Files in a shard (rounded up to whole batches): what is lost at most when killed."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Do only part I of N, counted from 0."""
    engine: Literal["local", "torchrun", "ray"] = "local"
    """local: this process, or all of torchrun's; torchrun: insist on torchrun; ray: Ray Data, here or on a cluster."""
    ray_address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """An existing Ray cluster, such as auto or ray://HOST:10001 (default: start one on this machine)."""
    actors: OptionalCount = None
    """Tokenizer actors of --engine ray (default: one a GPU, or one for every two CPUs)."""
    workers: OptionalCount = None
    """Processes that read ahead (default: one less than there are CPUs, at most 8)."""
    resume: bool = False
    """Go on with the shards that are in the folder."""
    max_errors: Count = 0
    """Exit with 1 if more files than this could not be read."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder; the bottleneck is always float32."""
    latent_dtype: Literal["float16", "bfloat16"] = "float16"
    """How a VAE's latents are stored; codes are stored as uint16, or uint32 for more than 65 536 of them."""
    inspect: bool = False
    """Print what is in the shards DATA, check every file, and decode a sample into a picture."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        require_some(self.data, "folder, list or tar of pictures and clips")
        self._check_options()
        if self.inspect:
            from omnitok.cli.inspection import inspect_shards

            return inspect_shards(self.data, self.out, self.model, self.device, self.json)
        part, parts = self._part()
        from omnitok.distributed import launched_place

        rank, world_size = launched_place()
        if self.engine == "ray" and world_size > 1:
            raise UsageError("--engine ray shares the work by itself: start it without torchrun")
        model = self._load()
        job = self._job(model, part * world_size + rank, parts * world_size)
        started = time.perf_counter()
        with progress_bar(job.sample_count, "tokenize", "file") as bar:
            frames = 0

            def progress(new_samples: int, new_frames: int) -> None:
                nonlocal frames
                frames += new_frames
                bar.set_postfix_str(f"{frames / (time.perf_counter() - started):.0f} frames/s", refresh=False)
                bar.update(new_samples)

            self._engine(job, model, progress)
        job.finish()
        if rank:
            return 0
        job.wait_for(part, parts)
        return self._report(job, model, time.perf_counter() - started)

    def _load(self) -> LoadedModel:
        """The tokenizer; with Ray, where the actors load their own, it stays on the CPU."""
        from omnitok.cli.loading import load_named, resolve_device
        from omnitok.distributed import launched_device

        device = resolve_device("cpu" if self.engine == "ray" else launched_device(self.device))
        return load_named(self.model or DEFAULT_MODEL, device, self.dtype)

    def _job(self, model: LoadedModel, part: int, parts: int) -> TokenizeJob:
        from omnitok.data.index import build_index
        from omnitok.tokenization.job import TokenizeJob, TokenizeSettings, make_plan

        settings = TokenizeSettings(
            resolution=self.resolution,
            frames=self.frames,
            fps=self.fps,
            views=self.views,
            crop_range=self.crop_range,
            batch_size=self.batch_size,
            shard_size=self.shard_size,
            seed=self.seed,
            precision=self.dtype,
        )
        collection = build_index(self.data, labels=self.labels)
        plan = make_plan(collection, settings, model.tokenizer, model.name, model.sha256, self.latent_dtype)
        if parts > plan.shard_count:
            say(f"there are {plan.shard_count} shards for {parts} parts; a smaller --shard-size gives more")
        return TokenizeJob(plan, self.out or Path("omnitok-shards"), part, parts, self.resume)

    def _engine(self, job: TokenizeJob, model: LoadedModel, progress: Progress) -> None:
        if self.engine == "ray":
            from omnitok.tokenization.on_ray import tokenize_on_ray

            tokenize_on_ray(job, self.device, self.ray_address, self.actors, progress)
            return
        from omnitok.tokenization.local import tokenize_here

        workers = self.workers if self.workers is not None else max(0, min(8, (os.cpu_count() or 1) - 1))
        tokenize_here(job, model.tokenizer, workers, progress)

    def _report(self, job: TokenizeJob, model: LoadedModel, seconds: float) -> int:
        """Print what was done; the exit code."""
        summary = job.summary
        row: Row = {
            "output": str(job.folder),
            "items": summary.items,
            "skipped": summary.skipped,
            "shards": summary.shards,
            "tokens": summary.tokens,
            "seconds": round(seconds, 3),
            "kind": job.plan.format.kind,
            "classes": len(job.plan.format.classes),
            "resumed_shards": summary.resumed,
            "complete": summary.complete,
            "limiting_stage": summary.limiting_stage,
            "items_per_second": round(summary.encoded / seconds, 3),
            "frames_per_second": round(summary.frames / seconds, 3),
            "encoder_share": round(summary.encoder_share, 4),
            "model": model.name,
            "model_sha256": model.sha256,
        }
        for error in summary.errors[:SHOWN_ERRORS]:
            say(f"error: {error.reason}")
        if summary.skipped > SHOWN_ERRORS:
            say(f"error: {summary.skipped - SHOWN_ERRORS} more files could not be read")
        if self.json:
            print(json.dumps(row, indent=2))
        else:
            _print_summary(row)
        if not summary.items and not summary.resumed:
            say("error: there is not a single item in the shards")
        return 1 if summary.skipped > self.max_errors or not summary.items else 0

    def _part(self) -> tuple[int, int]:
        """I and N of --shard I/N."""
        if self.shard is None:
            return 0, 1
        return parse_part(self.shard)

    def _check_options(self) -> None:
        """Raise UsageError where the options alone make no sense."""
        self.check_common()
        check_rate(self.fps)
        for name, least in (("views", 1), ("batch-size", 1), ("shard-size", 1), ("frames", 0), ("max-errors", 0)):
            if (value := getattr(self, name.replace("-", "_"))) < least:
                raise UsageError(f"--{name} must be at least {least}, found {value}")
        if self.crop_range is not None:
            if not 1 <= self.crop_range < math.inf:
                raise UsageError(f"--crop-range must be a number of at least 1, found {self.crop_range}")
            if self.resolution is None or self.views < 2:
                raise UsageError("--crop-range is of random crops: it needs --resolution and --views of at least 2")
        for name, least in (("resolution", 1), ("actors", 1), ("workers", 0)):
            if (count := getattr(self, name)) is not None and count < least:
                raise UsageError(f"--{name} must be at least {least}, found {count}")
        if self.engine != "ray" and (self.ray_address is not None or self.actors is not None):
            raise UsageError("--ray-address and --actors are for --engine ray")
        if self.engine == "torchrun" and "WORLD_SIZE" not in os.environ:
            raise UsageError(
                "--engine torchrun needs torchrun: torchrun --standalone --nproc-per-node N -m omnitok tokenize ..."
            )


def _print_summary(row: Row) -> None:
    done = (
        f"{row['items']} items ({row['tokens']} positions of {row['kind']}) in {row['shards']} shards: {row['output']}"
    )
    print(f"{done}; {row['skipped']} files skipped")
    if row["limiting_stage"] is not None:
        rates = f"{row['items_per_second']:.1f} items/s, {row['frames_per_second']:.1f} frames/s"
        print(f"{rates} in {row['seconds']:.1f} s; {row['limiting_stage']} is the limit")
    if not row["complete"]:
        print("other parts are still missing; the last one to finish writes the index")
