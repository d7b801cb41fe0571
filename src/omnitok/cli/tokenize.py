"""`omnitok tokenize`: a collection of images and videos to shards of tokens, and what is in such shards."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from omnitok.cli.engines import EngineFlags
from omnitok.cli.failures import UsageError, naming_options
from omnitok.cli.options import (
    DEFAULT_MODEL,
    SAID,
    ChannelRanges,
    CommonOptions,
    FrameRate,
    parse_part,
    require_least,
    require_models,
    require_paths,
    resolve_device,
)
from omnitok.cli.report import progress_bar, say

Data = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA...")]
OutFolder = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="SHARDS")]
Count = Annotated[int, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Tokenize(EngineFlags, CommonOptions):
    """Tokenize a collection into shards that train generators; omnitok.data.TokenShards reads them.

    A quantizer gives codes, a VAE the mean of its posterior. If the command is killed, the same command with --resume
    continues after the last finished shard. Files that cannot be read are skipped, counted and listed in errors.jsonl.
    Several processes or machines share the work, and make the same bytes as one: with --shard 0/2 and --shard 1/2 into
    one folder (the last to finish writes the index), with torchrun --nproc-per-node 2 -m omnitok tokenize ..., or with
    --engine ray.
    """

    data: Data = ()
    """Folders of images and videos, lists (.txt, .csv, .jsonl), WebDataset tars; with --inspect, folders of shards."""
    out: Annotated[OutFolder, SAID] = None
    """Folder or URL for the shards (default: omnitok-shards); with --inspect, the .png for the sample."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR|CKPT"), SAID] = None
    """The tokenizer (default: omnitok-tiny-vq; with --inspect, the one that the shards name)."""
    ranges: ChannelRanges = None
    """Values of .npy, TIFF and 16-bit grey files that become -1 and 1, 0:10000 or 0:1,2:9 (default: the model's)."""
    resolution: Annotated[int | None, tyro.conf.arg(metavar="PIXELS"), SAID] = None
    """Cut out the largest centre square and bring it to this side (default: sizes as they are)."""
    frames: Count = 17
    """Cut videos into windows of so many frames, dropping a shorter rest. 0 keeps videos whole, streaming long ones."""
    fps: FrameRate = None
    """Sample videos at this many frames per second instead of taking every frame."""
    views: Count = 1
    """Items of each file: the plain one, then random crops (with --resolution), mirror images and first frames."""
    crop_range: Annotated[float | None, tyro.conf.arg(metavar="RATIO"), SAID] = None
    """How many times as long as the side of a crop a file's short side may be; 1.1 leaves images nearly whole
    (default: crops of --resolution pixels or more)."""
    labels: Literal["auto", "folders", "none"] = "auto"
    """Classes of files in folders: the folders directly below DATA, if all files lie in such (auto), always, or never.
    Lists, manifests and tars give their own."""
    captions: bool = False
    """Keep captions of files: of tables the column caption, captions or text, else the lines of a.txt beside a.jpg."""
    embed: Annotated[str | None, tyro.conf.arg(metavar="SOURCE"), SAID] = None
    """Keep embeddings: files (.npy that tables name as embedding, else a.embedding.npy beside a.jpg), audio (log-mel
    frames of a video's sound), text:DIR or text:HUB_ID (of captions, by a T5 or CLIP of transformers)."""
    batch_size: Count = 16
    """Items encoded at a time."""
    shard_size: Count = 1024
    """Files in a shard (rounded up to whole batches): what is lost at most when killed."""
    resume: bool = False
    """Keep the finished shards in the folder and make the others."""
    max_errors: Count = 0
    """Exit with 1 if more files than this could not be read."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder; the bottleneck is always float32."""
    latent_dtype: Literal["float16", "bfloat16"] = "float16"
    """How a VAE's latents are stored; codes are stored as uint16, or uint32 for more than 65 536 of them."""
    inspect: bool = False
    """Print what is in the shards DATA, check every file, and decode a sample into an image."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        if not self.data:
            raise UsageError("give at least one folder, list or tar of images and videos; --help shows the options")
        self.check_common()
        self.check_engine()
        require_least(self, max_errors=0)
        if self.embed not in (None, "files", "audio") and not self._embeds_text:
            raise UsageError(f"--embed must be files, audio, text:DIR or text:HUB_ID, found {self.embed}")
        part, parts = parse_part(self.shard)
        from omnitok.tokenization.settings import TokenizeSettings

        names = ("resolution", "frames", "fps", "views", "crop_range", "batch_size", "shard_size", "seed")
        with naming_options():
            settings = TokenizeSettings(**{name: getattr(self, name) for name in names}, precision=self.dtype)
        require_paths(*self.data)
        require_models(self.model)
        from omnitok.cli.inspection import inspect_shards, print_summary

        if self.inspect:
            return inspect_shards(self.data, self.out, self.model, self.device, self.json)

        from omnitok.cli.loading import load_named
        from omnitok.data.index import build_index
        from omnitok.distributed import launched_device, launched_place
        from omnitok.tokenization.embedding import open_source
        from omnitok.tokenization.job import TokenizeJob, make_plan

        rank, world_size = launched_place()
        # The actors of Ray load their own.
        device = resolve_device("cpu" if self.engine == "ray" else launched_device(self.device))
        model = load_named(self.model or DEFAULT_MODEL, device, self.dtype, self.ranges)
        collection = build_index(
            self.data,
            labels=self.labels,
            arrays=model.pixel_format.has_arrays,
            captions=self.captions or self._embeds_text,
            embeddings=self.embed == "files",
        )
        embeddings, encoder = open_source(self.embed, collection, device) if self.embed else (None, None)
        plan = make_plan(collection, settings, model.tokenizer, model.name, model.sha256, self.latent_dtype, embeddings)
        if parts > plan.shard_count:
            say(f"there are {plan.shard_count} shards for {parts} parts; a smaller --shard-size gives more")
        out = self.out or Path("omnitok-shards")
        job = TokenizeJob(plan, out, part * world_size + rank, parts * world_size, self.resume)
        started = time.perf_counter()
        with progress_bar(job.sample_count, "tokenize", "file") as bar:
            self.do(job, model.tokenizer, encoder, self.device, bar.update)
        job.finish()
        if rank:
            return 0
        job.wait_for(part, parts)
        print_summary(plan, job.summary, out, time.perf_counter() - started, self.json)
        return 1 if job.summary.skipped > self.max_errors or not job.summary.items else 0

    @property
    def _embeds_text(self) -> bool:
        return self.embed is not None and self.embed.startswith("text:") and self.embed != "text:"
