"""The same files through several tokenizers: figures, images and videos side by side, a rate-distortion plot, a page.

One pass per model, each freed before the next is loaded. JPEG, and for videos H.264 and AV1, at several rates are drawn
as references.
"""

import gc
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from omnitok.data.image import write_image
from omnitok.data.modality import Modality
from omnitok.data.pixel_format import RGB, PixelFormat, format_ranges
from omnitok.data.video_reader import VideoReader
from omnitok.data.video_writer import VideoWriter
from omnitok.errors import MediaError, MissingWeightsError, OmnitokError
from omnitok.files import Paths
from omnitok.metrics.codecs import RATES, Codec
from omnitok.metrics.compared import Comparison, Comparisons, FileFigures
from omnitok.metrics.drawing import Plot, side_by_side, write_plots
from omnitok.metrics.evaluate import EvaluationConfig, Side, measured
from omnitok.metrics.frechet import GaussianStatistics
from omnitok.metrics.networks import Network, WeightsDir, load_networks, require_weights
from omnitok.metrics.psnr import psnr
from omnitok.metrics.reconstruction import (
    Coder,
    EvaluatedModel,
    Files,
    Reconstructions,
    check_frames,
    check_reconstruction,
)
from omnitok.metrics.registry import METRICS, check_metrics, networks_for
from omnitok.metrics.samples import files_by_modality, to_uint8

PLOT, PICTURES = "rate-distortion.png", "pictures"
Load = Callable[[str], EvaluatedModel]

_IF_WEIGHTS_ARE_THERE = ("lpips", "fd_mobilenet_v2", "fd_mobilenet_v2_video")


@dataclass(frozen=True)
class Shown:
    """A file beside what all tokenizers made of it: an image (.png), or a video (.mp4)."""

    path: Path
    modality: Modality
    title: str


def compare(
    inputs: Paths,
    models: Mapping[str, str],
    load: Load,
    out: Path,
    metrics: Sequence[str] | None = None,
    config: EvaluationConfig | None = None,
    *,
    weights_dir: WeightsDir = None,
    device: torch.device | str = "cpu",
    references: bool = True,
    shown: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Comparisons, list[Shown]]:
    """Measure tokenizers, and codecs at several rates, on the same files.

    Files are read as the first tokenizer takes them, which can be of other channels than red, green and blue. All must
    take the same: a PSNR of four channels says nothing beside one of three.

    Args:
        inputs: images and videos, folders and lists of them.
        models: what `load` takes -> a short name.
        out: folder for the plot (`PLOT`) and for `PICTURES`.
        metrics: of `METRICS` (default: psnr, ssim, and LPIPS and the distance of MobileNetV2's features where their
            weights are found).
        config: protocol, frames, seed; files keep their size where `resolution` is None.
        references: whether codecs are measured too; they are for colour.
        shown: so many images, and as many videos, are shown side by side.
        progress: told how many passes over the files are done, and of how many.

    Raises:
        OmnitokError: a file that cannot be read, or nothing to measure. What one model cannot do is its `error`.
        ValueError: a metric that there is not, or videos that are too short for one.
    """
    device = torch.device(device)
    held = _load_first(models, load, device)
    pixel_format = next((_format_of(coder) for coder in held.values() if isinstance(coder, EvaluatedModel)), RGB)
    files = files_by_modality(inputs, pixel_format.has_arrays)
    with tempfile.TemporaryDirectory() as scratch:
        config = config or EvaluationConfig()
        passes = _Passes(files, pixel_format, metrics, config, weights_dir, device, shown, Path(scratch))
        codecs = [
            Codec(kind, setting)
            for modality in (files if references and pixel_format.channels == 3 else ())
            for kind, settings in RATES[modality].items()
            for setting in settings
        ]
        steps = len(models) + len(codecs)
        for number, (model, name) in enumerate(models.items(), start=1):
            passes.run_model(model, name, held.pop(model, load))
            if progress is not None:
                progress(number, steps)
        for number, codec in enumerate(codecs, start=len(models) + 1):
            passes.run(codec, codec.name, codec.name, codec.modality)
            if progress is not None:
                progress(number, steps)
        write_plots(passes.plots(), out / PLOT)
        return passes.found, passes.show(out / PICTURES)


def _load_first(models: Iterable[str], load: Load, device: torch.device) -> dict[str, EvaluatedModel | OmnitokError]:
    """The first tokenizer that can be loaded, and why those before it cannot."""
    held: dict[str, EvaluatedModel | OmnitokError] = {}
    _forget_peak(device)
    for model in models:
        try:
            held[model] = load(model)
            break
        except OmnitokError as error:
            held[model] = error
    return held


def _format_of(coder: EvaluatedModel) -> PixelFormat:
    channels, ranges = coder.tokenizer.channels, tuple(coder.tokenizer.channel_ranges)
    is_one = len(set(ranges)) == 1  # which is the same as that of each
    return PixelFormat(channels, ranges[:1] if is_one else ranges)


class _Passes:
    """Passes over the same files, one coder after another."""

    def __init__(
        self,
        files: Files,
        pixel_format: PixelFormat,
        metrics: Sequence[str] | None,
        config: EvaluationConfig,
        weights_dir: WeightsDir,
        device: torch.device,
        shown: int,
        scratch: Path,
    ) -> None:
        self.files, self.shown, self.found = files, shown, Comparisons()
        self._format, self._device, self._scratch = pixel_format, device, scratch
        if metrics is None:
            seen = _with_weights(files, config, weights_dir) if pixel_format.channels == 3 else ()
            metrics = ["psnr", "ssim", *seen]
        self.metrics = check_metrics(metrics, "reconstruction")
        check_frames(self.metrics, config)
        check_reconstruction(self.metrics, config, files, discrete=True, data="inputs", channels=pixel_format.channels)
        self.networks = load_networks(networks_for(self.metrics, config.protocol), weights_dir, device)
        # Files of different sizes make no batches.
        self.config = config if config.resolution is not None else replace(config, batch_size=1)
        self._seen: dict[str, GaussianStatistics] = {}

    def run_model(self, model: str, name: str, given: EvaluatedModel | OmnitokError | Load) -> None:
        """The passes of one tokenizer, which is freed afterwards.

        Args:
            given: the tokenizer, why there is none, or what loads it.
        """
        try:
            if isinstance(given, OmnitokError):
                raise given
            if not isinstance(given, EvaluatedModel):
                _forget_peak(self._device)
                given = given(model)
            self._check_format(model, _format_of(given))
        except OmnitokError as error:
            self.found += [Comparison(model, name, modality, error=str(error)) for modality in self.files]
            return
        coder = given
        made = [self.run(coder, model, name, modality) for modality in self.files]
        for comparison in made:
            comparison.peak_memory = _peak(self._device)
            if isinstance(coder.tokenizer, nn.Module):
                comparison.parameters = sum(parameter.numel() for parameter in coder.tokenizer.parameters())
        del coder, given
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_format(self, model: str, found: PixelFormat) -> None:
        """Refuse a tokenizer that takes other pixels than the first."""
        first = self._format
        if found.channels != first.channels:
            raise OmnitokError(
                f"{model}: takes {found.channels} channels and the first model {first.channels}; figures of different "
                "channels cannot be compared, so compare models of the same ones"
            )
        if found != first:
            ranges = (format_ranges(x.ranges) or "those of the files' numbers" for x in (found, first))
            raise OmnitokError(
                f"{model}: takes the ranges {' and the first model '.join(ranges)}; give --ranges, which hold for all"
            )

    def run(self, coder: EvaluatedModel | Codec, model: str, name: str, modality: Modality) -> Comparison:
        """One pass over the files of one modality."""
        codec = coder if isinstance(coder, Codec) else None
        comparison = Comparison(model, name, modality, coder.sha256, codec.kind if codec else None)
        self.found.append(comparison)
        paths, metrics = self.files[modality], self.metrics
        if not coder.vocab_size:
            metrics = tuple(name for name in metrics if METRICS[name].gathers != "codes")
        source = _Watched(coder, paths, modality, self.config, self._format)
        source.seen = self._seen
        if codec is None:
            source.keep = lambda index, *pair: self._keep(comparison, index, *pair)
        try:
            with measured(source, metrics, self.config, self.networks, None, "", None) as measurement:
                for result in measurement.results():
                    comparison.values[result.metric] = result.value
                    if result.per_channel is not None:
                        comparison.per_channel[result.metric] = result.per_channel
                for metric in measurement.metrics:  # of this modality
                    network = measurement.networks[metric]
                    if network is not None and METRICS[metric].gathers == "moments":
                        self._seen[network.name] = measurement.compute(metric, "real")
        except MediaError:
            raise
        except (OmnitokError, ValueError) as error:
            comparison.error = str(error)
            return comparison
        for index, path in enumerate(paths):
            frames, height, width = size = source.sizes[index]
            tokens, bits = None, 0.0
            if isinstance(coder, Codec):
                bits = coder.bits[index]
            else:
                tokens = math.prod(coder.tokenizer.latent_shape(*size))
                bits = tokens * coder.tokenizer.bits_per_token
            seconds = round(source.seconds[index], 4)
            figures = FileFigures(str(path), width, height, frames, tokens, bits, source.decibels[index], seconds)
            comparison.files.append(figures)
        return comparison

    def _path(self, index: int, comparison: Comparison | None, modality: Modality) -> Path:
        number = "original" if comparison is None else self.found.index(comparison)
        return self._scratch / f"{modality}-{index}-{number}.npy"

    def _keep(self, comparison: Comparison, index: int, original: Tensor, result: Tensor) -> None:
        """What will be shown goes to the disk as bytes."""
        if index < self.shown:
            for pixels, whose in ((original, None), (result, comparison)):
                np.save(self._path(index, whose, comparison.modality), to_uint8(pixels).numpy())

    def show(self, folder: Path) -> list[Shown]:
        """Write the first files side by side with their results."""
        shown = []
        for modality, paths in self.files.items():
            able = [c for c in self.found if c.codec is None and c.modality == modality and c.error is None]
            for index, path in enumerate(paths[: self.shown] if able else ()):
                arrays = [np.load(self._path(index, whose, modality), mmap_mode="r") for whose in (None, *able)]
                size = f"{arrays[0].shape[-1]} x {arrays[0].shape[-2]}"
                captions = [f"{path.name}\n{size}"]
                for comparison in able:
                    file = comparison.files[index]
                    captions.append(f"{comparison.name}\n{file.psnr:.2f} dB, {file.bits_per_pixel:.3f} bits/pixel")
                name = f"{modality}-{index:03d}-{path.stem}"
                if modality == "image":
                    target = folder / f"{name}.png"
                    pixels = [torch.from_numpy(np.array(array))[:, None] for array in arrays]
                    write_image(target, side_by_side(pixels[0], pixels[1:], captions)[:, 0])
                else:
                    target = folder / f"{name}.mp4"
                    _write_side_by_side(target, arrays, captions, self._rate(path))
                shown.append(Shown(target, modality, path.name))
        return shown

    def _rate(self, path: Path) -> float:
        with VideoReader(path, pixel_format=self._format) as reader:
            return reader.fps

    def plots(self) -> list[Plot]:
        """One per modality and metric that codecs have too."""
        plots = []
        for modality, paths in self.files.items():
            able = [c for c in self.found if c.modality == modality and c.error is None]
            for metric in self.metrics:
                measured_by = [c for c in able if metric in c.values and METRICS[metric].gathers != "codes"]
                curves: dict[str, list[tuple[float, float]]] = {}
                for c in measured_by:
                    if c.codec is not None:
                        curves.setdefault(c.codec, []).append((c.bits_per_pixel, c.values[metric]))
                points = {c.name: (c.bits_per_pixel, c.values[metric]) for c in measured_by if c.codec is None}
                if points:
                    of = modality if len(paths) == 1 else f"{len(paths)} {modality}s"
                    plots.append(Plot(f"{metric} of {of}", curves, points))
        return plots


class _Watched(Reconstructions):
    """Reconstructions that are timed and noted; of originals that may have been seen before."""

    seen: Mapping[str, GaussianStatistics] = {}
    keep: Callable[[int, Tensor, Tensor], None] | None = None

    def __init__(
        self, coder: Coder, files: Sequence[Path], modality: Modality, config: EvaluationConfig, pixels: PixelFormat
    ) -> None:
        super().__init__(coder, files, modality, config.resolution, config, "inputs", self._note, pixels)
        self.seconds: list[float] = []
        self.decibels: list[float] = []
        self.sizes: list[tuple[int, int, int]] = []  # frames, height, width

    def code(self, pixels: Tensor, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        started = time.perf_counter()
        result, codes = super().code(pixels, indices)
        result = result.cpu()  # a GPU has then finished
        self.seconds += [(time.perf_counter() - started) / len(indices)] * len(indices)
        return result, codes

    def _note(self, originals: Tensor, results: Tensor) -> None:
        for original, result in zip(originals, results, strict=True):
            if self.keep is not None:
                self.keep(len(self.decibels), original, result)
            self.decibels.append(psnr(original[None], result[None]))
            self.sizes.append((*(original.shape[1:-2] or (1,)), *original.shape[-2:]))

    def statistics(self, side: Side, network: Network) -> GaussianStatistics | None:
        return self.seen.get(network.name) if side == "real" else None


def _with_weights(files: Files, config: EvaluationConfig, weights_dir: WeightsDir) -> list[str]:
    """The metrics of `_IF_WEIGHTS_ARE_THERE` that can be measured."""
    names = []
    for name in _IF_WEIGHTS_ARE_THERE:
        counts = [len(paths) for modality, paths in files.items() if modality in METRICS[name].modalities]
        if counts and min(counts) >= METRICS[name].minimum(config.protocol):
            with suppress(MissingWeightsError):
                require_weights(networks_for([name], config.protocol), weights_dir)
                names.append(name)
    return names


def _write_side_by_side(path: Path, arrays: Sequence[np.ndarray], captions: Sequence[str], fps: float) -> None:
    """Frame by frame; arrays are uint8 (C, T, H, W)."""
    writer: VideoWriter | None = None
    with ExitStack() as stack:
        for number in range(arrays[0].shape[1]):
            pixels = [torch.from_numpy(np.array(array[:, number : number + 1])) for array in arrays]
            frame = side_by_side(pixels[0], pixels[1:], captions)
            if writer is None:
                writer = stack.enter_context(VideoWriter(path, fps, frame.shape[-1], frame.shape[-2]))
            writer.write(frame)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux alone; elsewhere it is the peak so far
            Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration), open("/proc/self/status", encoding="ascii") as file:
        return 1024 * int(next(line for line in file if line.startswith("VmHWM:")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
