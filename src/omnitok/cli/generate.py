"""`omnitok generate`: pictures, clips and continuations of clips from a trained generator."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from omnitok.cli.failures import UsageError, explain_for, show_traceback_if_debugging
from omnitok.cli.options import CommonOptions, Output, parse_part
from omnitok.cli.report import Column, Report, Row, cell, progress_bar, say

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from omnitok.cli.sample_folder import Item
    from omnitok.generation.loading import Generator

COLUMNS = (
    Column("label", cell("label")),
    Column("seed", cell("seed")),
    Column("seconds", cell("seconds", 2)),
)

LANGUAGE_MODEL_OPTIONS: tuple[str, ...] = ("temperature", "top_k", "top_p")
DIFFUSION_OPTIONS: tuple[str, ...] = ("steps", "sampler")

OptionalCount = Annotated[int | None, tyro.conf.arg(metavar="N")]
OptionalNumber = Annotated[float | None, tyro.conf.arg(metavar="X")]


@dataclass(frozen=True, kw_only=True)
class Generate(CommonOptions):
    """Generate pictures (PNG) and clips (MP4) with a trained generator, or continue a clip.

    A sample is a function of the seed and its number alone, whatever the batch size and the number of processes. The
    same command goes on after an interruption: finished samples are kept. Several processes share the work, into one
    folder: --shard 0/2 and --shard 1/2, or torchrun --nproc-per-node 2 -m omnitok generate ...

    What is not given is as the model's settings say.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The generator: a name that `omnitok models` lists, a folder, or a hub id."""
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLASS...")] = ()
    """Classes, by name or number, or all; without it, of any class."""
    count: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Samples of each class (with --video: continuations)."""
    frames: OptionalCount = None
    """Frames of a clip, those of --video included, in constant memory beyond the trained length; without it pictures,
    or with --video the trained length."""
    video: Annotated[Path | None, tyro.conf.arg(metavar="CLIP")] = None
    """A clip to continue; its largest centred square is brought to the model's size."""
    given: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """Frames of --video that are given; the others are not read."""
    mark: bool = False
    """With --video: a red border on the given frames."""
    guidance: OptionalNumber = None
    """Scale of the guidance; 1 is none."""
    guidance_interval: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Where to guide, as fractions: of each latent frame's codes, first to last (language models); of the way from data
    to noise (diffusion models)."""
    temperature: OptionalNumber = None
    """Of language models: below 1 makes likely codes likelier."""
    top_k: OptionalCount = None
    """Of language models: sample among the k likeliest codes; 0 among all."""
    top_p: OptionalNumber = None
    """Of language models: sample among the likeliest codes that make up this probability; 1 among all."""
    steps: OptionalCount = None
    """Of diffusion models: of the sampler."""
    sampler: Literal["ddpm", "ddim", "dpm++", "euler", "heun"] | None = None
    """Of diffusion models: ddpm, ddim, dpm++ for those that predict noise; euler, heun for flow matching."""
    grid: bool = False
    """Also write the first samples of each class side by side, as grid.png or grid.mp4."""
    npz: bool = False
    """Also write all pictures as samples.npz, as the evaluator of ADM reads them."""
    out: Output = Path("omnitok-samples")
    """Folder for the samples; with --video and one continuation also a file, such as out.mp4."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Samples at a time."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Make only every N-th sample from the I-th on, counted from 0."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR")] = None
    """The generator's tokenizer, where it is not (any more) where the model's settings say."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        self._check_options()
        rank, world_size = self._place()
        import torch

        from omnitok.cli.loading import resolve_device
        from omnitok.distributed import launched_device
        from omnitok.generation.loading import load_generator

        dtype = torch.float32 if self.dtype == "float32" else torch.bfloat16
        generator = load_generator(self.model, resolve_device(launched_device(self.device)), dtype, self.tokenizer)
        how = self._sampling(generator)
        labels = self._labels(generator)
        if self.video is not None:
            return self._continue(generator, labels, how)
        return self._sample(generator, labels, how, rank, world_size)

    # ------------------------------------------------------------------------------------------------------- options

    def _check_options(self) -> None:
        """Raise UsageError where the options alone make no sense."""
        self.check_common()
        for name in ("count", "frames", "given", "steps", "batch-size"):
            value = getattr(self, name.replace("-", "_"))
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, found {value}")
        for name in ("guidance", "temperature", "top-p"):
            value = getattr(self, name.replace("-", "_"))
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"--{name} must be a number of at least 0, found {value}")
        if self.guidance_interval is not None and not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1:
            found = " ".join(map(str, self.guidance_interval))
            raise UsageError(f"--guidance-interval must be two fractions in order, found {found}")
        if self.top_k is not None and self.top_k < 0:
            raise UsageError(f"--top-k must not be negative, found {self.top_k}")
        if self.mark and self.video is None:
            raise UsageError("--mark is for --video")
        if self.npz and (self.frames is not None or self.video is not None):
            raise UsageError("--npz is for pictures")
        if self.video is not None and (self.grid or self.shard is not None or len(self.labels) > 1):
            raise UsageError("--video takes no --grid, no --shard and at most one label")
        if self.video is not None and self.frames is not None and self.frames <= self.given:
            raise UsageError(f"--frames must be more than the {self.given} frames given, found {self.frames}")

    def _place(self) -> tuple[int, int]:
        """This process among those that share the work."""
        from omnitok.distributed import launched_place

        rank, world_size = launched_place()
        if self.shard is None:
            return rank, world_size
        part, parts = parse_part(self.shard)
        return part * world_size + rank, parts * world_size

    def _sampling(self, generator: Generator) -> dict[str, Any]:
        """Arguments of `sample` that the options give.

        Raises:
            UsageError: options of the other kind of model.
        """
        from omnitok.generation.autoregressive import LanguageModelGenerator

        is_language_model = isinstance(generator, LanguageModelGenerator)
        own, foreign = (
            (LANGUAGE_MODEL_OPTIONS, DIFFUSION_OPTIONS)
            if is_language_model
            else (DIFFUSION_OPTIONS, LANGUAGE_MODEL_OPTIONS)
        )
        for name in foreign:
            if getattr(self, name) is not None:
                kind = "a language model" if is_language_model else "a diffusion model"
                raise UsageError(f"--{name.replace('_', '-')} is not for {self.model}, which is {kind}")
        chosen = {name: getattr(self, name) for name in own}
        chosen |= {"guidance_scale": self.guidance, "guidance_interval": self.guidance_interval}
        return {name: value for name, value in chosen.items() if value is not None}

    def _labels(self, generator: Generator) -> list[int | None]:
        """Numbers of the classes asked for.

        Raises:
            UsageError: an unknown class.
        """
        classes, names = generator.model.config.num_classes, generator.settings.classes
        if not self.labels:
            return [None]
        if not classes:
            raise UsageError(f"--labels: {self.model} has no classes")
        numbers: list[int | None] = []
        for given in self.labels:
            if given in names:
                numbers.append(names.index(given))
            elif given == "all":
                numbers.extend(range(classes))
            elif given.isdecimal() and int(given) < classes:
                numbers.append(int(given))
            else:
                known = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
                listed = f", or one of {known}" if known else ""
                raise UsageError(f"--labels: found {given!r}; a class is a number from 0 to {classes - 1}{listed}")
        return list(dict.fromkeys(numbers))

    # ------------------------------------------------------------------------------------------------------- samples

    def _sample(
        self, generator: Generator, labels: list[int | None], how: dict[str, Any], rank: int, world_size: int
    ) -> int:
        from omnitok.cli.sample_folder import NPZ_NAME, batches, check_settings, plan_items, write_grid, write_npz

        suffix = ".mp4" if self.frames is not None else ".png"
        items = plan_items(labels, self.count, generator.settings, self.out, suffix)
        check_settings(self.out, self._record(generator, labels, how))
        own = items[rank::world_size]
        report = Report(COLUMNS, self.json, name_key="output")
        missing = [item for item in own if not item.output.exists()]
        made: dict[int, Row] = {}
        with progress_bar(len(own), "samples", "sample") as bar:
            bar.update(len(own) - len(missing))
            for batch in batches(missing, 1 if self._is_long(generator) else self.batch_size):
                try:
                    made |= self._one_batch(generator, batch, how)
                except Exception as error:
                    show_traceback_if_debugging()
                    for item in batch:
                        made[item.index] = {"output": str(item.output), "error": explain_for(item.output, error)}
                bar.update(len(batch))
        for item in own:
            row = made.get(item.index, _row(item, self.seed, 0.0) | {"kept": True})
            if "error" in row:
                report.fail(row["output"], row["error"])
            else:
                report.add(row)
        if all(item.output.exists() for item in items):  # the process that finishes last
            if self.grid:
                write_grid(items, self.out, generator.settings.fps or 8.0)
            if self.npz:
                write_npz(items, self.out / NPZ_NAME)
        elif self.grid or self.npz:
            say("the grid and the .npz are written by the process that finishes last")
        return report.finish(f"Samples are in {self.out}")

    def _is_long(self, generator: Generator) -> bool:
        return self.frames is not None and self.frames > generator.settings.num_frames

    def _record(self, generator: Generator, labels: list[int | None], how: dict[str, Any]) -> dict[str, Any]:
        from omnitok.hub.folder import fingerprint

        return {
            "model": self.model,
            "model_sha256": fingerprint(generator.model),
            "labels": labels,
            "frames": self.frames,
            "seed": self.seed,
            "dtype": self.dtype,
            **{**generator.settings.sampling.chosen(), **how},
        }

    def _one_batch(self, generator: Generator, batch: list[Item], how: dict[str, Any]) -> dict[int, Row]:
        from omnitok.data import VideoWriter, write_image, write_video

        started = time.perf_counter()
        labels, indices = [item.label for item in batch], [item.index for item in batch]
        fps = generator.settings.fps or 8.0
        if self._is_long(generator):
            (item,) = batch
            size = generator.settings.width, generator.settings.height
            pieces = generator.stream_video(labels, self.frames, seed=self.seed, indices=indices, **how)
            with VideoWriter(item.output, fps, *size) as writer:
                for piece in pieces:
                    writer.write(piece[0].cpu().float())
        else:
            samples = generator.sample(labels, self.frames or 1, seed=self.seed, indices=indices, **how)
            for item, sample in zip(batch, samples.cpu().float(), strict=True):
                if self.frames is None:
                    write_image(item.output, sample)
                else:
                    write_video(item.output, sample if sample.ndim == 4 else sample[:, None], fps=fps)
        seconds = (time.perf_counter() - started) / len(batch)
        return {item.index: _row(item, self.seed, seconds) for item in batch}

    # --------------------------------------------------------------------------------------------------------- video

    def _continue(self, generator: Generator, labels: list[int | None], how: dict[str, Any]) -> int:
        assert self.video is not None
        frames, fps = self._given_frames(generator)
        outputs = [self.out]
        if self.out.suffix.lower() not in (".mp4", ".webm", ".mkv", ".gif") or self.out.is_dir():
            names = (f"-{number:03d}" if self.count > 1 else "" for number in range(self.count))
            outputs = [self.out / f"{self.video.stem}{name}.mp4" for name in names]
        elif self.count > 1:
            raise UsageError(f"-o {self.out} names one file, but there are {self.count} continuations: give a folder")
        if any(output.resolve() == self.video.resolve() for output in outputs):
            raise UsageError(f"-o {self.out} is the clip itself: give another name")
        report = Report(COLUMNS, self.json, name_key="output")
        for index, output in enumerate(outputs):
            started = time.perf_counter()
            try:
                self._continue_one(generator, frames, labels[0], index, how, output, fps)
            except Exception as error:
                show_traceback_if_debugging()
                report.fail(str(output), explain_for(output, error))
                continue
            label = labels[0]
            named = generator.settings.classes[label] if label is not None and generator.settings.classes else label
            report.add(
                {
                    "output": str(output),
                    "label": named,
                    "index": index,
                    "seed": self.seed,
                    "seconds": round(time.perf_counter() - started, 3),
                }
            )
        return report.finish()

    def _given_frames(self, generator: Generator) -> tuple[Tensor, float]:
        """(1, 3, T0, H, W) of the model's size, and the clip's frames a second."""
        from itertools import islice

        import torch

        from omnitok.data import VideoReader
        from omnitok.data.transforms import fit_square, resize

        height, width = generator.settings.height, generator.settings.width
        assert self.video is not None
        with VideoReader(self.video) as reader:
            read = list(islice(reader, self.given))
            fps = reader.fps
        if len(read) < self.given:
            raise UsageError(f"{self.video}: has {len(read)} frames, fewer than the {self.given} of --given")
        frames = torch.stack(read, dim=1)  # 3 T0 H W
        square = height == width
        frames = fit_square(frames, height, "center_crop") if square else resize(frames, height, width)
        return frames[None], fps

    def _continue_one(
        self,
        generator: Generator,
        frames: torch.Tensor,
        label: int | None,
        index: int,
        how: dict[str, Any],
        output: Path,
        fps: float,
    ) -> None:
        from omnitok.cli.sample_folder import mark_given
        from omnitok.data import VideoWriter

        total = self.frames or generator.settings.num_frames
        common: dict[str, Any] = {"seed": self.seed, "indices": [index], **how}
        if total > generator.settings.num_frames:
            pieces = generator.stream_video([label], total, frames=frames, **common)
        else:
            pieces = iter([generator.sample([label], total, prompt_frames=frames, **common)])
        height, width = frames.shape[-2:]
        done = 0
        with (
            VideoWriter(output, fps, width, height) as writer,
            progress_bar(total, str(output), "frame") as bar,
        ):
            for piece in pieces:
                piece = piece[0].cpu().float()
                writer.write(mark_given(piece, done, self.given) if self.mark else piece)
                done += piece.shape[1]
                bar.update(piece.shape[1])


def _row(item: Item, seed: int, seconds: float) -> Row:
    return {
        "output": str(item.output),
        "label": item.name or None,
        "index": item.index,
        "seed": seed,
        "seconds": round(seconds, 3),
    }
