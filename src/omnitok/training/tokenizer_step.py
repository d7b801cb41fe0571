"""One training step of a tokenizer: one forward, all losses, the updates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from omnitok.data.loader import Batch
from omnitok.distributed import Processes
from omnitok.losses.adversarial import adaptive_weight
from omnitok.losses.discriminators import frame_indices, take_frames
from omnitok.losses.lpips import load_lpips
from omnitok.losses.objective import normalize_kl, reconstruction_losses, weighted_sum
from omnitok.losses.perceptual import MobileNetPerceptualLoss, ResizedDistance, load_mobilenet_v2
from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.adversary import Adversary
from omnitok.training.blocks import prepare_blocks
from omnitok.training.checkpoint import counter, keys_of_group
from omnitok.training.config import OCCASIONAL_LOSSES, PIXEL_LOSSES, PerceptualConfig, TrainConfig
from omnitok.training.optim import AveragedWeights, build_optimizer, learning_rate
from omnitok.training.parallel import Autoencoder, gather, gradient_sync, parallelize
from omnitok.training.precision import autocast
from omnitok.training.step import StepReport, Sums, sample_seeds, step_seed, tensors_of
from omnitok.training.usage import CodebookUse


@dataclass(frozen=True)
class _Part:
    """Samples of a batch whose forward is one."""

    real: Tensor
    frames: Tensor | None  # (b,): of each clip, the one that the picture discriminator and the perceptual loss see
    latent_seeds: Sequence[int]
    noise_seeds: Sequence[int]  # of the discriminators


class TokenizerLearner:
    """A tokenizer with its optimizer, averaged weights and counters.

    Args:
        config: `config.model` is the architecture of `tokenizer`.
        tokenizer: trained in place; with FSDP2 its parameters become shards.
        processes: those that train together.
    """

    def __init__(self, config: TrainConfig, tokenizer: OmniTokenizer, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self.tokenizer = tokenizer.to(processes.device).train()
        if config.init.keep_encoder:
            _keep_encoder(self.tokenizer)
        prepare_blocks(tokenizer, config.engine)
        temperature = config.entropy_temperature if config.weights.get("entropy") else None
        self._model = parallelize(Autoencoder(tokenizer, temperature), processes, config.engine.parallel)
        self._optimizer = build_optimizer(tokenizer, config.optimizer)
        decay = config.optimizer.ema_decay
        self._average = None if decay is None else AveragedWeights(tokenizer, decay)
        self.use: CodebookUse | None = None
        if tokenizer.vocab_size is not None:
            self.use = CodebookUse(
                tokenizer.vocab_size, config.log.usage_window, config.log.usage_threshold, processes.device
            )
        self.adversary = Adversary(config, processes) if _plays(config) else None
        compares = config.weights.get("perceptual") or config.weights.get("temporal_perceptual")
        self._perceptual = load_perceptual(config.perceptual).to(processes.device) if compares else None
        self.updates = counter(0)
        self.skipped = counter(0)

    # ------------------------------------------------------------------------------------------------------------ step

    def step(self, batch: Batch) -> StepReport:
        """One forward and backward of the batch, then the updates, unless something is not finite."""
        config = self.config
        torch.manual_seed(step_seed(config.seed, batch.step, self.processes.rank))
        rate = learning_rate(config.optimizer, batch.step, config.steps)
        state_before = [buffer.clone() for buffer in self._step_buffers()]
        sums, codes = self._backward(batch)
        sums.values["grad_norm"] = self._optimizer.clip()
        finite = bool(torch.isfinite(sums.values["grad_norm"]) and torch.isfinite(sums.total))
        if self.adversary is not None:
            sums.values["discriminator_grad_norm"] = self.adversary.clip()
            finite = finite and bool(torch.isfinite(sums.values["discriminator_grad_norm"]))
        applied = not self.processes.any(not finite)
        if applied:
            self._optimizer.step(rate)
            if self.adversary is not None and self.adversary.strength(batch.step) > 0:
                self.adversary.update(batch.step)
            if self._average is not None:
                self._average.update(int(self.updates))
            if self.use is not None and codes is not None:
                self.use.update(batch.step, codes, self.processes.world_size)
            self.updates += 1
        else:
            for buffer, before in zip(self._step_buffers(), state_before, strict=True):
                buffer.copy_(before)
            self.skipped += 1
        self._optimizer.zero_grad()
        if self.adversary is not None:
            self.adversary.optimizer.zero_grad()
        return StepReport(batch.step, batch.modality, tuple(batch.inputs.shape), rate, applied, sums.values)

    def _backward(self, batch: Batch) -> tuple[Sums, Tensor | None]:
        """Gradients of one forward per part of the batch, for both sides of the game."""
        parts = self._parts(batch)
        sums, codes = Sums(len(parts)), []
        for i, part in enumerate(parts):
            with gradient_sync(self._model, enabled=i == len(parts) - 1):
                part_codes = self._backward_part(part, batch.step, sums)
            if part_codes is not None:
                codes.append(part_codes)
        return sums, torch.cat(codes) if codes else None

    def _parts(self, batch: Batch) -> list[_Part]:
        """What is computed at a time. Nothing random about a sample depends on the process that has it."""
        seed, step = self.config.seed, batch.step
        pixels = batch.inputs.to(self.processes.device, non_blocking=True)
        rank, world_size = self.processes.rank, self.processes.world_size
        everywhere = len(pixels) * world_size
        places = range(rank, everywhere, world_size)
        frames = None
        if batch.modality == "video":
            frames = frame_indices(everywhere, pixels.shape[2], seed, step)[rank::world_size]
        latents, noise = (sample_seeds(seed, step, places, use) for use in (1, 2))
        size = -(-len(pixels) // self.config.optimizer.accumulation)
        cuts = (slice(start, start + size) for start in range(0, len(pixels), size))
        return [_Part(pixels[cut], None if frames is None else frames[cut], latents[cut], noise[cut]) for cut in cuts]

    def _backward_part(self, part: _Part, step: int, sums: Sums) -> Tensor | None:
        real, frames = part.real, part.frames
        config = self.config
        with autocast(real.device, config.engine.precision):
            fake, codes, losses, statistics = self._model(real, step >= config.quantize_after, part.latent_seeds)
            losses = reconstruction_losses(fake, real) | losses
            if "kl" in losses:
                latents = self._latent_numbers(real)
                losses["kl"] = normalize_kl(losses["kl"], config.kl_normalization, latents, real[0].numel())
            if self._perceptual is not None:
                losses |= self._perceptual_losses(fake, real, frames)
            strength = 0.0 if self.adversary is None else self.adversary.strength(step)
            weights: dict[str, float | Tensor] = {k: v for k, v in config.weights.items() if k not in ("lecam", "r1")}
            views = []
            if self.adversary is not None and strength > 0:
                views = self.adversary.views(real, fake, frames, part.noise_seeds)
                terms = self.adversary.generator_terms(views)
                weights |= self._adversarial_weights(losses, terms, strength)
                losses |= terms
            total = weighted_sum(losses, weights, optional=OCCASIONAL_LOSSES)
        (total / sums.parts).backward()
        if self.adversary is not None:
            with autocast(real.device, config.engine.precision):
                losses |= self.adversary.backward(views, step, sums.parts)
        sums.add(losses | statistics)
        sums.total = sums.total + total.detach()
        return codes

    def _perceptual_losses(self, fake: Tensor, real: Tensor, frames: Tensor | None) -> dict[str, Tensor]:
        """The losses over the network's distance that have a weight; `frames` (b,) of clips, None of pictures."""
        assert self._perceptual is not None
        weights = self.config.weights
        chosen = None if self.config.perceptual.all_frames else frames
        losses = {}
        if weights.get("perceptual"):
            a, b = (fake, real) if chosen is None else (take_frames(fake, chosen), take_frames(real, chosen))
            losses["perceptual"] = self._perceptual(a, b).mean()
        if weights.get("temporal_perceptual") and frames is not None and fake.shape[2] > 1:
            pairs = None if chosen is None else chosen.clamp(max=fake.shape[2] - 2)
            fake_change, real_change = (change_between_frames(self._perceptual, x, pairs) for x in (fake, real))
            # Too little change is left alone: to match a clip's grain, the decoder would learn to flicker.
            losses["temporal_perceptual"] = (fake_change - real_change).relu().mean()
        return losses

    def _adversarial_weights(
        self, losses: Mapping[str, Tensor], terms: Mapping[str, Tensor], strength: float
    ) -> dict[str, float | Tensor]:
        weights: dict[str, float | Tensor] = {name: strength * self.config.weights.get(name, 0.0) for name in terms}
        if self.config.adversarial.adaptive:
            decoder = self.tokenizer.decoder
            # Taken once: under FSDP2 these are the whole weights now, and shards again after the first gradient.
            last_layers = [decoder.to_image.weight, decoder.to_video.weight]
            of_pixels = {name: w for name, w in self.config.weights.items() if name in PIXEL_LOSSES}
            pixel_loss = weighted_sum(losses, of_pixels, optional=OCCASIONAL_LOSSES)
            for name in ("image_gan", "video_gan"):
                if name in terms:
                    weights[name] = weights[name] * adaptive_weight(pixel_loss, terms[name], last_layers)
        return weights

    def _latent_numbers(self, pixels: Tensor) -> int:
        """Numbers in the latents of one sample."""
        frames = pixels.shape[2] if pixels.ndim == 5 else 1
        return self.tokenizer.latent_channels * math.prod(self.tokenizer.latent_shape(frames, *pixels.shape[-2:]))

    def _step_buffers(self) -> list[Tensor]:
        """What a forward in training mode changes."""
        modules = [self.tokenizer.bottleneck, *([] if self.adversary is None else [self.adversary])]
        return [buffer for module in modules for buffer in module.buffers()]

    # ----------------------------------------------------------------------------------------------------------- state

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything that a checkpoint holds; restoring it continues the run bit for bit."""
        groups = self._plain_state()
        groups |= {"optimizer": self._optimizer.state()}
        if self.adversary is not None:
            groups |= {"adversary_optimizer": self.adversary.optimizer.state()}
        return groups

    def _plain_state(self) -> dict[str, dict[str, Tensor]]:
        """What is restored by writing into the tensors."""
        groups = {
            "model": tensors_of(self.tokenizer),
            "progress": {"updates": self.updates, "skipped": self.skipped},
        }
        if self.adversary is not None:
            groups["adversary"] = tensors_of(self.adversary)
        if self._average is not None:
            groups["ema"] = dict(self._average.items())
        if self.use is not None:
            groups["usage"] = self.use.state()
        return groups

    def blank_state(self, keys: set[str]) -> dict[str, dict[str, Tensor]]:
        """Tensors to load a checkpoint with these keys into; then call `restore`."""
        blank = {"optimizer": self._optimizer.blank_state(keys_of_group(keys, "optimizer"))}
        if self.adversary is not None:
            moments = keys_of_group(keys, "adversary_optimizer")
            blank |= {"adversary_optimizer": self.adversary.optimizer.blank_state(moments)}
        return self._plain_state() | blank

    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over a filled `blank_state`."""
        self._optimizer.restore(state["optimizer"])
        if self.adversary is not None:
            self.adversary.optimizer.restore(state["adversary_optimizer"])

    def snapshot(self, everywhere: bool = False) -> OmniTokenizer | None:
        """A copy of the tokenizer to publish and to measure, in `eval` mode on this process's device, with the averaged
        weights where there are any. On the first process, or `everywhere`; None on others, which must call it too."""
        tensors = tensors_of(self.tokenizer) | (dict(self._average.items()) if self._average is not None else {})
        whole = {name: gather(tensor) for name, tensor in tensors.items()}
        if not (everywhere or self.processes.is_main):
            return None
        with torch.random.fork_rng(devices=[]):  # building draws weights; the run's random numbers stay as they were
            copy = OmniTokenizer.from_config(self.tokenizer.config)
        copy.load_state_dict(whole)
        copy.latent_statistics = self.tokenizer.latent_statistics
        copy.compatible_tokenizers = self.tokenizer.compatible_tokenizers
        return copy.to(self.processes.device).eval()


def _keep_encoder(tokenizer: OmniTokenizer) -> None:
    """Leave everything before the latents as it is: no gradients, and a bottleneck that neither updates nor draws."""
    tokenizer.encoder.requires_grad_(False)
    tokenizer.bottleneck.project_in.requires_grad_(False)
    tokenizer.bottleneck.eval()


def _plays(config: TrainConfig) -> bool:
    return bool(config.weights.get("image_gan") or config.weights.get("video_gan"))


def load_perceptual(config: PerceptualConfig) -> nn.Module:
    """The network of the perceptual loss, frozen: (b, 3, H, W) or (b, 3, T, H, W) twice -> distances.

    Raises:
        MissingWeightsError: its files are missing or have another hash.
    """
    distance: nn.Module
    if config.network == "lpips":
        distance = load_lpips("vgg", config.weights_dir)
    else:
        distance = MobileNetPerceptualLoss(load_mobilenet_v2(config.weights_dir))
    return distance if config.resolution is None else ResizedDistance(distance, config.resolution)


def change_between_frames(distance: nn.Module, videos: Tensor, frames: Tensor | None = None) -> Tensor:
    """Distances between neighbouring frames; the mean absolute difference of those of two videos is tLP (Chu et al.,
    arXiv 1811.09393, with LPIPS as the distance).

    Args:
        distance: takes (b, 3, H, W) or (b, 3, T, H, W) twice.
        videos: (b, 3, T, H, W) of at least two frames.
        frames: (b,), at most T - 2: the one of each video that is compared with its next; None compares all.

    Returns:
        (b,), or with `frames=None` (b, T - 1).
    """
    if frames is None:
        change: Tensor = distance(videos[:, :, :-1], videos[:, :, 1:])
    else:
        change = distance(take_frames(videos, frames), take_frames(videos, frames + 1))
    return change


def publish(tokenizer: OmniTokenizer, folder: Path, statistics: LatentStatistics | None) -> None:
    """Write the model's folder, with the statistics of its latents where they were measured."""
    if statistics is not None:
        tokenizer.latent_statistics = statistics
    tokenizer.save_pretrained(folder)
