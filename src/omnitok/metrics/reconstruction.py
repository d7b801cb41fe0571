"""How well a tokenizer gives images and videos back: PSNR, SSIM, LPIPS, rFID, rFVD, codebook usage."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from omnitok.data.modality import Modality
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.distributed import shard
from omnitok.errors import NotFiniteError, OmnitokError
from omnitok.metrics.evaluate import Batch, EvaluationConfig, Need, Progress, Source, measured
from omnitok.metrics.networks import Network, WeightsDir, load_networks
from omnitok.metrics.registry import METRICS, check_metrics, networks_for
from omnitok.metrics.results import Results
from omnitok.metrics.samples import (
    JPEG_SUFFIXES,
    batches,
    files_by_modality,
    from_uint8,
    jpeg_roundtrip,
    load_sample,
    quantize_original,
    quantize_reconstruction,
    read_ahead,
)
from omnitok.models.protocol import Tokenizer

Files = Mapping[Modality, Sequence[Path]]
Observe = Callable[[Tensor, Tensor], None]


class Coder(Protocol):
    """What makes originals into reconstructions, who it is, and how many codes its codebook has (0: none)."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...

    def reconstruct(
        self, pixels: Tensor, indices: Sequence[int], config: EvaluationConfig
    ) -> tuple[Tensor, Tensor | None]:
        """Reconstructions of images (b, 3, H, W) or videos (b, 3, T, H, W) around [-1, 1], and the codes, if any.

        Args:
            indices: of the samples in their set, which random numbers may depend on.
        """
        ...


@dataclass(frozen=True)
class EvaluatedModel:
    """A tokenizer and who it is."""

    tokenizer: Tokenizer
    name: str
    sha256: str

    @property
    def vocab_size(self) -> int:
        """See `Coder`."""
        return self.tokenizer.vocab_size or 0

    def reconstruct(
        self, pixels: Tensor, indices: Sequence[int], config: EvaluationConfig
    ) -> tuple[Tensor, Tensor | None]:
        """See `Coder`; of a VAE from its mean or from samples, as the protocol says."""
        encoding = self.tokenizer.encode(pixels.to(self.tokenizer.device), check_range=False)
        latents, posterior = encoding.latents, encoding.posterior
        if posterior is not None and config.protocol.posterior == "sample":
            noise = []
            for index in indices:  # by the sample's own index, so that neither batches nor processes change it
                generator = torch.Generator().manual_seed((config.seed * 1_000_003 + index) % 2**63)
                noise.append(torch.randn(latents.shape[1:], generator=generator))
            latents = posterior.mean + (0.5 * posterior.logvar).exp() * torch.stack(noise).to(latents)
        return self.tokenizer.decode(latents, encoding.size), encoding.codes


def check_reconstruction(
    metrics: Sequence[str], config: EvaluationConfig, files: Files, discrete: bool, data: str, channels: int = 3
) -> None:
    """Raise OmnitokError where a metric has nothing to measure in these files or with this tokenizer."""
    for name in metrics:
        metric = METRICS[name]
        if metric.network is not None and channels != 3:
            raise OmnitokError(
                f"{name} sees colour, and this model's pixels have {channels} channels; psnr, ssim and usage take any"
            )
        if name == "usage" and not discrete:
            raise OmnitokError("usage counts the codes of a quantizer, but this model is a VAE: leave usage out")
        if not set(metric.modalities) & set(files):
            wanted, found = " or ".join(metric.modalities), " and ".join(files)
            raise OmnitokError(f"{data}: {name} needs {wanted}s, but there are only {found}s")
        minimum = metric.minimum(config.protocol)
        for modality in files:
            if modality in metric.modalities and len(files[modality]) < minimum:
                raise OmnitokError(
                    f"{data}: {name} needs at least {minimum} {modality}s, but there is {len(files[modality])}"
                )


def check_frames(metrics: Sequence[str], config: EvaluationConfig) -> None:
    """Raise ValueError where the videos would be too short for a metric."""
    for name in metrics:
        if METRICS[name].minimum_frames > config.video_frames:
            raise ValueError(
                f"{name} needs videos of at least {METRICS[name].minimum_frames} frames, but frames is "
                f"{config.video_frames}"
            )


def evaluate_reconstruction(
    tokenizer: Tokenizer | EvaluatedModel,
    data: str | os.PathLike[str] | Files,
    metrics: Sequence[str] | None = None,
    config: EvaluationConfig | None = None,
    *,
    weights_dir: WeightsDir = None,
    networks: Mapping[str, Network] | None = None,
    name: str | None = None,
    state_folder: Path | None = None,
    progress: Progress | None = None,
    observe: Observe | None = None,
) -> Results:
    """Metrics over the images, then over the videos, of a set.

    Args:
        data: a folder or list of files, or the files by modality.
        metrics: names of `omnitok.metrics.registry.METRICS` (default: those that need no weights).
        weights_dir: where the weights of feature networks are (default: the folder that OMNITOK_WEIGHTS names).
        networks: loaded before, by `load_networks`, on the tokenizer's device; then no weights are looked for.
        name: what the set is called in the results.
        state_folder: where unfinished sums are kept, so that a stopped run continues.
        progress: told how many samples are done, and of how many.
        observe: given each batch as PSNR sees it, originals and reconstructions (b, 3, H, W) or (b, 3, T, H, W) in
            [-1, 1] on the CPU; what it gathers is not kept in `state_folder`.

    Raises:
        OmnitokError: a file that cannot be read (a number over fewer files would be another number), nothing to
            measure, missing weights, or NaN from the tokenizer.
        ValueError: a metric that there is not, or videos that are too short for one.
    """
    config = config or EvaluationConfig()
    if not isinstance(tokenizer, EvaluatedModel):
        tokenizer = EvaluatedModel(tokenizer, type(tokenizer).__name__, tokenizer.fingerprint)
    name = name or ("files" if isinstance(data, Mapping) else os.fspath(data))
    is_discrete = tokenizer.tokenizer.is_discrete
    without_weights = ("psnr", "ssim", "usage") if is_discrete else ("psnr", "ssim")
    chosen = check_metrics(without_weights if metrics is None else metrics, "reconstruction")
    check_frames(chosen, config)
    pixel_format = PixelFormat(tokenizer.tokenizer.channels, tokenizer.tokenizer.channel_ranges)
    files = data if isinstance(data, Mapping) else files_by_modality(data, pixel_format.has_arrays)
    check_reconstruction(chosen, config, files, is_discrete, name, pixel_format.channels)
    if networks is None:
        networks = load_networks(networks_for(chosen, config.protocol), weights_dir, tokenizer.tokenizer.device)
    sources = [
        Reconstructions(
            tokenizer, files[modality], modality, config.side(modality), config, name, observe, pixel_format
        )
        for modality in sorted(files)
        if any(modality in METRICS[metric].modalities for metric in chosen)
    ]
    total, before = sum(source.total for source in sources), 0
    results = Results()
    for source in sources:

        def advance(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        state_name = f"{source.row.modality}-{tokenizer.sha256[:12]}"
        with measured(source, chosen, config, networks, state_folder, state_name, advance) as measurement:
            results += measurement.results()
        before += source.total
    return results


class Reconstructions(Source):
    """Files of one modality beside what a tokenizer makes of them."""

    def __init__(
        self,
        coder: Coder,
        files: Sequence[Path],
        modality: Modality,
        resolution: int | None,
        config: EvaluationConfig,
        name: str,
        observe: Observe | None = None,
        pixel_format: PixelFormat = RGB,
    ) -> None:
        self._format, self.channels = pixel_format, pixel_format.channels
        self.coder, self.files, self.config, self.observe = coder, files, config, observe
        self.total, self.vocab_size = len(shard(len(files))), coder.vocab_size
        self.identity = coder.sha256 + "".join(map(str, pixel_format.ranges))
        self._has_features = False
        row = config.blank_row(modality, len(files), name)
        self.row = replace(row, resolution=resolution, model=coder.name, model_sha256=coder.sha256)

    def select(self, needs: Collection[Need]) -> None:
        self._has_features = "fake" in needs  # of the originals they may be known already

    def batches(self, start: int) -> Iterator[Batch]:
        own = list(shard(len(self.files)))[start:]
        row, protocol = self.row, self.config.protocol
        how = (row.modality, protocol, row.resolution, row.frames, self._format)
        loaded = read_ahead(lambda index: load_sample(self.files[index], *how), own)
        for part in batches(own, self.config.batch_size if row.modality == "image" else 1):
            yield self._reconstruct(torch.stack([next(loaded) for _ in part]), part)

    def code(self, pixels: Tensor, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """What the coder makes of a batch."""
        return self.coder.reconstruct(pixels, indices, self.config)

    @torch.no_grad()
    def _reconstruct(self, pixels: Tensor, indices: Sequence[int]) -> Batch:
        """Samples (b, 3, H, W) or (b, 3, T, H, W) in [-1, 1] as the protocol's metrics see them and their results."""
        protocol, paths = self.config.protocol, [self.files[i] for i in indices]
        try:
            result, codes = self.code(pixels, indices)
        except NotFiniteError as error:
            raise OmnitokError(f"{paths[0]}: the model {self.coder.name}: {error}") from error
        if not torch.isfinite(result).all():
            raise OmnitokError(f"{paths[0]}: the model {self.coder.name} answers NaN or infinite pixels")
        result = result.float().clamp(-1, 1).cpu()
        original8, result8 = quantize_original(pixels, protocol), quantize_reconstruction(result, protocol)
        if protocol.pixel_metrics_on == "uint8":
            pixels, result = from_uint8(original8), from_uint8(result8)
        if self.observe is not None:
            self.observe(pixels, result)
        if self._has_features and self.row.modality == "image" and protocol.jpeg_quality is not None:
            for i, path in enumerate(paths):
                if path.suffix.lower() in JPEG_SUFFIXES:
                    original8[i : i + 1] = jpeg_roundtrip(original8[i : i + 1], protocol.jpeg_quality)
                    result8[i : i + 1] = jpeg_roundtrip(result8[i : i + 1], protocol.jpeg_quality)
        return Batch(indices, str(paths[0]), original8, result8, (pixels, result), codes)
