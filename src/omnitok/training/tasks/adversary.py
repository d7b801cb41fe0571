"""The discriminators' side of a training step: terms for the generator, and the discriminators' own update."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omnitok.distributed import Processes, mean_over_processes
from omnitok.losses.adversarial import (
    LeCam,
    adversarial_ramp,
    discriminator_loss,
    feature_matching,
    generator_loss,
    r1_penalty,
)
from omnitok.losses.discriminators import PatchDiscriminator, take_frames
from omnitok.training.config import TrainConfig
from omnitok.training.optim import NamedOptimizer, learning_rate


@dataclass(frozen=True)
class View:
    """What one discriminator sees of a batch: images (or a frame of each video) or whole videos."""

    name: str  # "image" or "video"
    real: Tensor
    fake: Tensor
    generators: Sequence[torch.Generator]  # of the noise of each sample: every look at it draws on


class Adversary(nn.Module):
    """Discriminators of images and of videos, for those of the weights `image_gan` and `video_gan` that are not 0.

    Gradients are averaged over processes by hand, once per update: the discriminators are small, the penalty needs
    second derivatives, and under FSDP2 too they are kept whole.
    """

    def __init__(self, config: TrainConfig, processes: Processes) -> None:
        super().__init__()
        self._weights, self._config = config.weights, config.adversarial
        self._steps, self._generator = config.steps, config.optimizer
        self.discriminators = nn.ModuleDict()
        if config.weights.get("image_gan"):
            self.discriminators["image"] = PatchDiscriminator(self._config.image, 2, config.model.channels)
        if config.weights.get("video_gan"):
            self.discriminators["video"] = PatchDiscriminator(self._config.video, 3, config.model.channels)
        self.lecam = nn.ModuleDict({name: LeCam() for name in self.discriminators})
        self.to(processes.device).train()
        self.optimizer = NamedOptimizer(self.discriminators, config.optimizer, self._config.betas)

    def ramp(self, step: int) -> float:
        """Share of the adversarial weights that holds at this step; 0 before the start."""
        return adversarial_ramp(step, self._config.start_step, self._config.ramp_steps)

    def views(self, real: Tensor, fake: Tensor, frames: Tensor | None, seeds: Sequence[int]) -> list[View]:
        """What the discriminators see of a batch.

        Args:
            frames: which frame of each video is an image; None for images.
            seeds: one per sample, of all noise that discriminators add to it.
        """
        generators = [torch.Generator(real.device).manual_seed(seed) for seed in seeds]
        views = []
        if "image" in self.discriminators:
            seen = (real, fake) if frames is None else (take_frames(real, frames), take_frames(fake, frames))
            views.append(View("image", *seen, generators))
        if "video" in self.discriminators and frames is not None:
            views.append(View("video", real, fake, generators))
        return views

    def generator_terms(self, views: list[View]) -> dict[str, Tensor]:
        """ "image_gan", "video_gan" and "feature_matching", with gradients for the reconstruction only."""
        terms: dict[str, Tensor] = {}
        matching = []
        with self._frozen():
            for view in views:
                discriminator = self.discriminators[view.name]
                fake = discriminator(view.fake, view.generators)
                terms[f"{view.name}_gan"] = generator_loss(fake.logits, self._config.loss)
                if self._weights.get("feature_matching"):
                    with torch.no_grad():
                        real = discriminator(view.real, view.generators)
                    matching.append(feature_matching(real.features, fake.features))
        if matching:
            terms["feature_matching"] = torch.stack(matching).sum()
        return terms

    def backward(self, views: list[View], step: int, parts: int) -> dict[str, Tensor]:
        """Add the gradients of the discriminators' own losses for the same reconstruction; the losses, unweighted."""
        losses: dict[str, Tensor] = {}
        for view in views:
            discriminator, lecam = self.discriminators[view.name], self.lecam[view.name]
            assert isinstance(lecam, LeCam)
            real = discriminator(view.real, view.generators)
            fake = discriminator(view.fake.detach(), view.generators)
            loss = discriminator_loss(real.logits, fake.logits, self._config.loss)
            losses[f"{view.name}_discriminator"] = loss.detach()
            if self._weights.get("lecam"):
                term = lecam(real.logits, fake.logits)
                losses[f"{view.name}_lecam"] = term.detach()
                loss = loss + self._weights["lecam"] * term
            if self._weights.get("r1") and step % self._config.r1_every == 0:
                penalty = r1_penalty(lambda x: discriminator(x, view.generators).logits, view.real)  # noqa: B023
                losses[f"{view.name}_r1"] = penalty.detach()
                loss = loss + self._weights["r1"] * self._config.r1_every * penalty
            (loss / parts).backward()
            if self._weights.get("lecam"):  # after the backward pass, which needs the averages of the term
                lecam.update(real.logits.detach(), fake.logits.detach())
        return losses

    def clip(self) -> Tensor:
        """Average the gradients over the processes and clip them; their norm before."""
        for parameter in self.discriminators.parameters():
            if parameter.grad is not None:
                parameter.grad = mean_over_processes(parameter.grad)
        return self.optimizer.clip()

    def update(self, step: int) -> None:
        """Step the discriminators' optimizer, at its share of the generator's learning rate."""
        self.optimizer.step(self._config.lr_factor * learning_rate(self._generator, step, self._steps))

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        self.discriminators.requires_grad_(False)
        try:
            yield
        finally:
            self.discriminators.requires_grad_(True)
