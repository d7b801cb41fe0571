"""Training a tokenizer: one forward, the losses of its pixels and bottleneck, and an adversarial game on request."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.data.loader import Batch, PixelDataset, load_batches
from omnitok.data.modality import MODALITIES
from omnitok.data.pixel_format import PixelFormat, as_color
from omnitok.distributed import Processes
from omnitok.hub.folder import read_description
from omnitok.hub.header import CONFIG_NAME, TOKENIZER
from omnitok.losses.adversarial import adaptive_weight
from omnitok.losses.discriminators import frame_indices, take_frames
from omnitok.losses.objective import entropy_loss, normalize_kl, reconstruction_losses, weighted_sum
from omnitok.losses.perceptual import change_between_frames, load_perceptual
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import OCCASIONAL_LOSSES, PIXEL_LOSSES, AnyConfig, TrainConfig
from omnitok.training.data import build_dataset, hold_out, list_samples
from omnitok.training.optim import NamedOptimizer
from omnitok.training.seeds import sample_seeds
from omnitok.training.task import Say, Snapshot, Task, side_by_side, tensors_of
from omnitok.training.tasks.adversary import Adversary, View
from omnitok.training.tasks.codebook_usage import CodebookUsage
from omnitok.training.tasks.measured import latent_statistics, measure_block_limits
from omnitok.training.tasks.tokenizer_validation import Validation, plan_validation
from omnitok.training.throughput import forward_flops
from omnitok.training.transfer import initial_tokenizer, load_kept, tokens_of

MEASURED_BATCHES = 32
"""Batches that the statistics of latents and the limits of blocks are measured on."""
NO_LIMIT = 1e30  # infinity has no place in JSON
PREVIEW_STEPS = 100  # with a video share near 0 or 1 the other modality may come late


@dataclass(frozen=True)
class Part:
    """Samples of a batch whose forward is one.

    Attributes:
        real: pixels (b, 3, H, W) or (b, 3, T, H, W).
        frames: (b,), the frame of each video that the image discriminator and the perceptual loss see; None of images.
        from_files: the places of those that are not drawn images.
        noise_seeds: one per sample, of the noise of the discriminators.
    """

    real: Tensor
    frames: Tensor | None
    from_files: Sequence[int]
    noise_seeds: Sequence[int]


class Autoencoder(nn.Module):
    """`tokenizer.autoencode` as a forward, which is what DDP and FSDP2 hook into.

    Args:
        entropy_temperature: of the loss "entropy" of a quantizer, whose scores of every position with every code take
            memory; None leaves it out.
    """

    def __init__(self, tokenizer: OmniTokenizer, entropy_temperature: float | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.entropy_temperature = entropy_temperature

    def forward(
        self, pixels: Tensor, quantize: bool, seeds: Sequence[int], kept: Mapping[int, Tensor] = {}
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
        """Pixels -> reconstruction, codes, losses and statistics of the bottleneck; see `OmniTokenizer.autoencode`.

        A tuple, because the hooks of FSDP2 look into tuples but not into dataclasses.
        """
        result = self.tokenizer.autoencode(pixels, quantize, seeds, kept)
        inner = result.bottleneck
        losses, z = inner.losses, inner.unquantized
        if self.entropy_temperature is not None:
            losses = losses | {"entropy": pixels.new_zeros((), dtype=torch.float32)}
            if z is not None:  # else latents pass unquantized
                with torch.autocast(pixels.device.type, enabled=False):
                    scores = self.tokenizer.bottleneck.similarities(z.flatten(0, -2))
                    terms = [entropy_loss(x, self.entropy_temperature) for x in scores]
                    losses["entropy"] = torch.stack(terms).sum()
        # A copy, because the reconstruction is a view (cropped), to which FSDP2 cannot safely tie its backward hook.
        return result.reconstruction.clone(), inner.codes, losses, inner.statistics


class TokenizerTask(Task):
    """A tokenizer by its configuration: one of the three stages, or all of a baseline."""

    config: TrainConfig
    model: OmniTokenizer

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.usage: CodebookUsage | None = None
        self.adversary: Adversary | None = None
        self._initial: OmniTokenizer | None = None
        self._before: OmniTokenizer | None = None  # whose codes are kept
        self._validation: Validation | None = None
        self._perceptual: nn.Module | None = None
        self._preview: dict[str, Tensor] = {}
        self._codes: list[Tensor] = []  # of the batch so far

    # ---------------------------------------------------------------------------------------------------------- start

    def resolve(self, processes: Processes, saved: AnyConfig | None, say: Say) -> None:
        """Find the files, plan the validation, and take the architecture of what the run starts from."""
        self.processes = processes
        config = self.config
        start = None
        if not isinstance(saved, TrainConfig) and config.init.model is not None:
            start = OmniTokenizer.from_pretrained(config.init.model)
            if start.channels == config.model.channels and not config.data.ranges:
                data = dataclasses.replace(config.data, ranges=start.channel_ranges)
                self.config = config = dataclasses.replace(config, data=data)
            elif start.channels != config.model.channels:
                say(f"{config.init.model} has {start.channels} channels; training begins with {config.model.channels}")
        chosen = config.validation
        if chosen.images or chosen.videos:  # then nothing is held out, unless the run began without them
            held_out_share = saved.held_out if isinstance(saved, TrainConfig) else 0.0
            self.config = config = dataclasses.replace(config, held_out=held_out_share)
        pixel_format = PixelFormat(config.model.channels, config.data.ranges)
        listed = list_samples(config.data, pixel_format=pixel_format)
        samples, held_out = hold_out(listed, config.held_out, chosen.samples, config.data.frames, pixel_format)
        parts = config.optimizer.accumulation
        self.dataset = build_dataset(
            config.data, parts, config.seed, processes, samples=samples, pixel_format=pixel_format
        )
        self.sample_counts = {modality: len(self.dataset.samples[modality]) for modality in MODALITIES}
        self._validation = plan_validation(config, held_out)
        if isinstance(saved, TrainConfig):
            if saved.init.model is not None or config.init.model is not None:
                self.config = dataclasses.replace(config, model=saved.model)
        elif start is not None:
            torch.manual_seed(config.seed)
            self._initial = initial_tokenizer(config, self.dataset, start)
            self.config = dataclasses.replace(config, model=self._initial.config)

    def build(self, say: Say) -> None:
        """The tokenizer, the discriminators and the perceptual network, on this process's device."""
        config, device = self.config, self.processes.device
        if self._initial is None:
            torch.manual_seed(config.seed)
        tokenizer = (self._initial or OmniTokenizer.from_config(config.model)).to(device).train()
        if tokenizer.trained_on or config.init.model is None:  # else not known, and so it stays
            known = {*tokenizer.trained_on, *self.dataset.sampler.modalities}
            tokenizer.trained_on = tuple(modality for modality in MODALITIES if modality in known)
        tokenizer.channel_ranges = config.data.ranges
        if config.init.freeze_encoder:
            _freeze_encoder(tokenizer)
        if config.init.keep_codes:
            self._before = load_kept(config.init.keep_codes, tokenizer).to(device)
            tokenizer.compatible_tokenizers = tokens_of(self._before)
        self.prepare(tokenizer, Autoencoder(tokenizer, config.entropy_temperature if self._weight("entropy") else None))
        if tokenizer.vocab_size is not None:
            size = tokenizer.vocab_size
            self.usage = CodebookUsage(size, config.log.usage_window, config.log.usage_threshold, device)
        if config.is_adversarial:
            self.adversary = Adversary(config, self.processes)
        if self._weight("perceptual") or self._weight("temporal_perceptual"):
            chosen = config.perceptual
            self._perceptual = load_perceptual(
                chosen.network, chosen.weights_dir, chosen.resolution, chosen.seen(config.model.channels)
            ).to(device)
        if self.processes.is_main and config.log.images_every:
            self._preview = _fixed_samples(self.dataset, config.log.images)

    def blank_copy(self) -> OmniTokenizer:
        return OmniTokenizer.from_config(self.config.model)

    def parts_of(self, model: OmniTokenizer) -> Mapping[str, nn.Module]:
        return {"encoder": model.encoder, "bottleneck": model.bottleneck, "decoder": model.decoder}

    # ----------------------------------------------------------------------------------------------------------- step

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        pin_memory = self.processes.device.type == "cuda"
        return load_batches(self.dataset, start, stop, workers=self.config.data.workers, pin_memory=pin_memory)

    def split(self, batch: Batch) -> list[tuple[tuple[Any, ...], Part]]:
        """Parts of this process's share: pixels, whether they are quantized yet, seeds of the noise and restarts.

        Nothing random about a sample depends on the process that has it.
        """
        seed, step = self.config.seed, batch.step
        self._codes = []
        pixels = batch.inputs.to(self.processes.device, non_blocking=True)
        rank, world_size = self.processes.rank, self.processes.world_size
        everywhere = len(pixels) * world_size
        places = range(rank, everywhere, world_size)
        frames = None
        if batch.modality == "video":
            frames = frame_indices(everywhere, pixels.shape[2], seed, step)[rank::world_size]
        latents, noise = (sample_seeds(seed, step, places, use) for use in (1, 2))
        size = -(-len(pixels) // self.config.optimizer.accumulation)
        quantize = step >= self.config.quantizer_warmup_steps
        parts = []
        for start in range(0, len(pixels), size):
            cut = slice(start, start + size)
            drawn = batch.drawn[cut] or [False] * len(pixels[cut])
            from_files = [place for place, is_drawn in enumerate(drawn) if not is_drawn]
            part = Part(pixels[cut], None if frames is None else frames[cut], from_files, noise[cut])
            parts.append(((part.real, quantize, latents[cut], self._kept_codes(part)), part))
        return parts

    @torch.no_grad()
    def _kept_codes(self, part: Part) -> dict[int, Tensor]:
        """Codes (t, h, w) of the tokenizer whose codes are kept, by the places of the samples that come from files."""
        if self._before is None or not part.from_files:
            return {}
        with self.autocast():
            codes = self._before.encode(part.real[part.from_files]).codes
        assert codes is not None
        return dict(zip(part.from_files, codes.reshape(len(codes), -1, *codes.shape[-2:]), strict=True))

    def learn(self, outputs: Any, part: Part, step: int, parts: int) -> dict[str, Tensor]:
        """Both players learn from the same reconstruction."""
        with self.autocast():
            total, scalars, views = self._losses(outputs, part, step)
        (total / parts).backward()
        if self.adversary is not None:
            with self.autocast():
                scalars |= self.adversary.backward(views, step, parts)
        return {"loss": total} | scalars

    def _losses(self, outputs: Any, part: Part, step: int) -> tuple[Tensor, dict[str, Tensor], list[View]]:
        """The weighted sum of the losses, each of them by its name, and what the discriminators see of the part."""
        fake, codes, losses, statistics = outputs
        real, frames, config = part.real, part.frames, self.config
        losses = reconstruction_losses(fake, real) | losses
        if "kl" in losses:
            grid = self.model.latent_shape(real.shape[2] if real.ndim == 5 else 1, *real.shape[-2:])
            numbers = self.model.latent_channels * math.prod(grid)
            losses["kl"] = normalize_kl(losses["kl"], config.kl_normalization, numbers, real[0].numel())
        if self._perceptual is not None:
            losses |= self._perceptual_losses(self._perceptual, fake, part)
        weights: dict[str, float | Tensor] = {k: v for k, v in config.weights.items() if k not in ("lecam", "r1")}
        views: list[View] = []
        if self.adversary is not None and (ramp := self.adversary.ramp(step)) > 0:
            views = self.adversary.views(real, fake, frames, part.noise_seeds)
            terms = self.adversary.generator_terms(views)
            weights |= self._adversarial_weights(losses, terms, ramp)
            losses |= terms
        if codes is not None:
            self._codes.append(codes)
        return weighted_sum(losses, weights, optional=OCCASIONAL_LOSSES), losses | statistics, views

    def step_buffers(self) -> list[Tensor]:
        """Codebook statistics, and the batch norms and averages of the discriminators."""
        modules = [self.model.bottleneck, *([] if self.adversary is None else [self.adversary])]
        return [buffer for module in modules for buffer in module.buffers()]

    def clip_gradients(self) -> dict[str, Tensor]:
        norms = super().clip_gradients()
        return norms if self.adversary is None else norms | {"discriminator_grad_norm": self.adversary.clip()}

    def update(self, step: int, rate: float) -> None:
        super().update(step, rate)
        if self.adversary is not None and self.adversary.ramp(step) > 0:
            self.adversary.update(step)
        if self.usage is not None and self._codes:
            self.usage.update(step, torch.cat(self._codes))

    def row_details(self, step: int) -> dict[str, float]:
        """The share of the codebook in use."""
        if self.usage is None or step < self.config.quantizer_warmup_steps:
            return {}
        return {"codebook_window_usage": self.usage.share(step)}

    def alarm(self, step: int, details: Mapping[str, float]) -> str | None:
        """A codebook that has collapsed."""
        return self.usage.alarm(step, details["codebook_window_usage"]) if self.usage is not None and details else None

    def forward_flops(self, shape: tuple[int, ...]) -> int:
        return forward_flops(self.config.model, shape)

    def _weight(self, name: str) -> float:
        return self.config.weights.get(name, 0.0)

    def _perceptual_losses(self, network: nn.Module, fake: Tensor, part: Part) -> dict[str, Tensor]:
        """The losses over the network's distance that have a weight.

        Of drawn images pixels alone are compared: the networks learned to see photographs.
        """
        seen = part.from_files
        share = len(seen) / len(fake)  # of a mean over all samples, so that it does not matter who has which
        if not seen:
            names = ("perceptual",) if part.frames is None else ("perceptual", "temporal_perceptual")
            return {name: fake.new_zeros(()) for name in names if self._weight(name)}
        real, frames = part.real, part.frames
        if share < 1:  # else nothing need be copied
            fake, real, frames = fake[seen], real[seen], None if frames is None else frames[seen]
        chosen = None if self.config.perceptual.all_frames else frames
        losses = {}
        if self._weight("perceptual"):
            a, b = (fake, real) if chosen is None else (take_frames(fake, chosen), take_frames(real, chosen))
            losses["perceptual"] = share * network(a, b).mean()
        if self._weight("temporal_perceptual") and frames is not None and fake.shape[2] > 1:
            pairs = None if chosen is None else chosen.clamp(max=fake.shape[2] - 2)
            fake_change, real_change = (change_between_frames(network, x, pairs) for x in (fake, real))
            # Too little change is left alone: to match a video's grain, the decoder would learn to flicker.
            losses["temporal_perceptual"] = share * (fake_change - real_change).relu().mean()
        return losses

    def _adversarial_weights(
        self, losses: Mapping[str, Tensor], terms: Mapping[str, Tensor], ramp: float
    ) -> dict[str, float | Tensor]:
        weights: dict[str, float | Tensor] = {name: ramp * self._weight(name) for name in terms}
        if self.config.adversarial.adaptive:
            decoder = self.model.decoder
            # Taken once: under FSDP2 these are the whole weights now, and shards again after the first gradient.
            last_layers = [decoder.to_image.weight, decoder.to_video.weight]
            of_pixels = {name: w for name, w in self.config.weights.items() if name in PIXEL_LOSSES}
            pixel_loss = weighted_sum(losses, of_pixels, optional=OCCASIONAL_LOSSES)
            for name in ("image_gan", "video_gan"):
                if name in terms:
                    weights[name] = weights[name] * adaptive_weight(pixel_loss, terms[name], last_layers)
        return weights

    # ---------------------------------------------------------------------------------------------------------- state

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        groups = super().tensors()
        if self.adversary is not None:
            groups["adversary"] = tensors_of(self.adversary)
        if self.usage is not None:
            groups["usage"] = self.usage.state()
        return groups

    def optimizers(self) -> dict[str, NamedOptimizer]:
        mine = super().optimizers()
        return mine if self.adversary is None else mine | {"adversary_optimizer": self.adversary.optimizer}

    # -------------------------------------------------------------------------------------------------------- results

    def recall(self, folder: Path) -> None:
        """What came with `init.model`, which need not be there any more."""
        if self.config.init.model is not None and (folder / CONFIG_NAME).is_file():
            read_description(folder / CONFIG_NAME, (TOKENIZER,)).tell(self.model)

    def export(self, model: OmniTokenizer, folder: Path, last: bool) -> None:
        """Write the model folder; at the end with what is measured over the first batches of the training."""
        model.latent_statistics = self.model.latent_statistics
        model.compatible_tokenizers = self.model.compatible_tokenizers
        model.trained_on = self.model.trained_on
        model.channel_ranges = self.model.channel_ranges
        if last and self.config.limit_room is not None:
            model.limit_blocks(self._block_limits(model, self.config.limit_room))
        if last and not model.is_discrete and not self.config.init.freeze_encoder:
            model.latent_statistics = latent_statistics(model, self._measured_pixels())
        model.save_pretrained(folder)

    def _measured_pixels(self) -> Iterable[Tensor]:
        whole = self.dataset.whole()
        return (whole[step].inputs for step in range(MEASURED_BATCHES))

    def _block_limits(self, model: OmniTokenizer, room: float) -> tuple[float, ...]:
        """Of all blocks; an encoder that is frozen keeps its own, or none."""
        limits = measure_block_limits(model, self._measured_pixels(), room)
        if not self.config.init.freeze_encoder:
            return limits
        of_encoder = len(model.encoder.spatial.blocks) + len(model.encoder.temporal.blocks)
        return (*(model.config.block_limits or [NO_LIMIT] * of_encoder)[:of_encoder], *limits[of_encoder:])

    @torch.no_grad()
    def preview(self, model: OmniTokenizer) -> Mapping[str, Tensor]:
        """The same samples again and again while the model learns: originals above, reconstructions below."""
        grids = {}
        for name, pixels in self._preview.items():
            reconstruction = model(pixels.to(model.device)).cpu().float().clamp(-1, 1)
            rows = [side_by_side(each) for each in (pixels, reconstruction)]
            grids[name] = as_color(torch.cat(rows, dim=-2))  # 3 (T) 2H nW
        return grids

    def validate(self, snapshot: Snapshot) -> Mapping[str, float]:
        """Scores of reconstructions of held-out files, by all processes together."""
        return {} if self._validation is None else self._validation(snapshot(True))


def _freeze_encoder(tokenizer: OmniTokenizer) -> None:
    """Leave everything before the latents as it is: no gradients, and a bottleneck that neither updates nor draws."""
    tokenizer.encoder.requires_grad_(False)
    tokenizer.bottleneck.project_in.requires_grad_(False)
    tokenizer.bottleneck.eval()


def _fixed_samples(dataset: PixelDataset, count: int) -> dict[str, Tensor]:
    """Up to `count` images (n, 3, H, W) and videos (n, 3, T, H, W): those of the first batch of each modality."""
    samples: dict[str, Tensor] = {}
    for step in range(PREVIEW_STEPS):
        modality = dataset.sampler.modality(step)
        if modality not in samples:
            samples[modality] = dataset[step].inputs[:count]
        if len(samples) == sum(1 for modality in MODALITIES if dataset.samples[modality]):
            break
    return samples
