"""Adversarial terms: hinge and vanilla losses, feature matching, LeCam, R1, the adaptive weight, and when they begin.

All of them are float32 under any autocast. In a distributed run the moving averages and the adaptive weight are those
of the global batch, so that they are the same on every process.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.distributed import mean_over_processes

GanLoss = Literal["hinge", "vanilla"]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, kind: GanLoss) -> Tensor:
    """What the discriminator minimises, halved as released.

    "hinge" (Lim & Ye, arXiv 1705.02894): (E[max(0, 1 - D(x))] + E[max(0, 1 + D(x'))]) / 2.
    "vanilla" (Goodfellow et al., 2014): (E[softplus(-D(x))] + E[softplus(D(x'))]) / 2.

    Args:
        real_logits, fake_logits: of any shape; the fake ones from a detached reconstruction.
    """
    real, fake = real_logits.float(), fake_logits.float()
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake_logits: Tensor, kind: GanLoss) -> Tensor:
    """What the generator minimises: -E[D(x')] for "hinge"; E[softplus(-D(x'))] (non-saturating) for "vanilla"."""
    fake = fake_logits.float()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def feature_matching(real_features: Sequence[Tensor], fake_features: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of the discriminator's features, summed over layers; the real side takes no gradient.

    Wang et al., arXiv 1711.11585. The released weight of 4 applies to this sum.
    """
    pairs = zip(real_features, fake_features, strict=True)
    return torch.stack([(fake.float() - real.detach().float()).abs().mean() for real, fake in pairs]).sum()


class LeCam(nn.Module):
    """LeCam regularisation (Tseng et al., arXiv 2104.03310): E[(D(x) - a_F)^2] + E[(D(x') - a_R)^2].

    The anchors a_R and a_F are moving averages of the mean logits of real and fake samples, kept in buffers. Before the
    first `update` the term is 0.

    Args:
        decay: of the moving averages.
    """

    real: Tensor
    fake: Tensor
    initialised: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The term for logits of any shape; changes no state."""
        real, fake = real_logits.float(), fake_logits.float()
        term = (real - self.fake).square().mean() + (fake - self.real).square().mean()
        return torch.where(self.initialised, term, torch.zeros_like(term))

    @torch.no_grad()
    def update(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Take a batch's logits into the averages; once a step, after the term was computed."""
        means = mean_over_processes(torch.stack([real_logits.float().mean(), fake_logits.float().mean()]))
        keep = torch.where(self.initialised, self.decay, 0.0)
        self.real.copy_(keep * self.real + (1 - keep) * means[0])
        self.fake.copy_(keep * self.fake + (1 - keep) * means[1])
        self.initialised.fill_(True)


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Squared gradient at real samples (Mescheder et al., arXiv 1801.04406, eq. 9, without gamma / 2).

    The gradient is that of each sample's mean logit, so that the penalty does not grow with the number of patches.

    Args:
        discriminator: pixels -> logits (b, ...): `lambda x: D(x).logits`.
        real: pixels (b, ...).

    Returns:
        Mean over the batch of the sum over pixels, with a graph for the second derivative.
    """
    with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
        pixels = real.detach().float().requires_grad_(True)
        score = discriminator(pixels).float().reshape(pixels.shape[0], -1).mean(1).sum()
        (gradient,) = torch.autograd.grad(score, pixels, create_graph=True)
        return gradient.square().flatten(1).sum(1).mean()


def adaptive_weight(
    reconstruction_loss: Tensor,
    adversarial_loss: Tensor,
    last_layer: Tensor | Sequence[Tensor],
    maximum: float = 1e4,
    epsilon: float = 1e-4,
) -> Tensor:
    """Weight that makes the adversarial gradient as long as the other one (Esser et al., arXiv 2012.09841, eq. 7).

    `|grad reconstruction| / (|grad adversarial| + epsilon)` at the decoder's last layer, clamped to [0, maximum].

    Args:
        reconstruction_loss, adversarial_loss: scalars with a graph, which is kept for the backward pass that follows.
        last_layer: the weight, or the weights of the decoder's outputs for images and videos; those that a batch
            does not use count as 0. Under FSDP2 the unsharded ones, as they are between forward and backward.

    Returns:
        A detached scalar.
    """
    weights = [last_layer] if isinstance(last_layer, Tensor) else list(last_layer)
    of_reconstruction = _gradient(reconstruction_loss, weights).norm()
    of_adversary = _gradient(adversarial_loss, weights).norm()
    return (of_reconstruction / (of_adversary + epsilon)).clamp(0.0, maximum).detach()


def _gradient(loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, weights, strict=True)
    flat = [(torch.zeros_like(w) if g is None else g.detach()).float().flatten() for g, w in pairs]
    return mean_over_processes(torch.cat(flat))


def adversarial_ramp(step: int, start: int, ramp: int = 0) -> float:
    """Share of the adversarial weight at step `step` (from 0): 0 before `start`, then linear to 1 over `ramp` steps.

    Step `start` itself is the first with an adversarial gradient: 1 / ramp, or 1 where `ramp` is 0.
    """
    if step < start:
        return 0.0
    return min((step - start + 1) / ramp, 1.0) if ramp else 1.0
