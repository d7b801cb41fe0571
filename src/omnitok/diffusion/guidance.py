"""Denoisers made from denoisers: guided towards a class, and held to latents that are given."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from omnitok.diffusion.objectives import Network
from omnitok.diffusion.schedules import NoiseSchedule, per_item

Denoiser = Callable[[Tensor, Tensor], Tensor]


def guided(
    model: Network,
    labels: Tensor | None,
    null_label: int | Tensor | None = None,
    scale: float = 1.0,
    channels: int | None = None,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans, 2022): unconditional + scale (conditional - unconditional).

    At scale 1, and at times outside the interval, only the conditional half is computed. A learned variance is the
    conditional one's, as in DiT. What a model of lower precision answers is brought to that of x first.

    Args:
        model: called as ``model(x, t, labels)``.
        labels: (b,), or conditions (b, …); None for an unconditional model.
        null_label: the label id that stands for "no class"; or as labels, what to lead away from.
        scale: 1 is the conditional model, 0 the unconditional one.
        channels: guide only this many of the latents' channels, the first ones; the released DiT guides 3 of its 8,
            Latte 4. None guides all.
        interval: times (low, high), both included, in the units of the model's t, where to guide (Kynkäänniemi et al.,
            2024); None is everywhere.

    Raises:
        ValueError: a scale that is not finite or negative; guidance without labels or null label; no channels; an
            interval whose bounds are not in order.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(f"the guidance scale must be finite and not negative, found {scale}")
    if channels is not None and channels < 1:
        raise ValueError(f"guided channels must be at least 1, found {channels}")
    if interval is not None and not interval[0] <= interval[1]:
        raise ValueError(f"a guidance interval is (low, high), found {interval}")
    if scale == 1:
        return lambda x, t: model(x, t, labels).to(x.dtype)
    if labels is None or null_label is None:
        raise ValueError(f"guidance with scale {scale} needs labels and a conditional model; scale 1 is without")
    others = null_label if isinstance(null_label, Tensor) else torch.full_like(labels, null_label)
    both = torch.cat([labels, others])

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if interval is not None:
            low, high = (float(v) for v in t.aminmax())
            if low < interval[0] or high > interval[1]:  # a sampler's items share their time
                return model(x, t, labels).to(x.dtype)
        conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), both).to(x.dtype).chunk(2)
        count = x.shape[1] if channels is None else min(channels, x.shape[1])
        guided_part = torch.lerp(unconditional[:, :count], conditional[:, :count], scale)
        return torch.cat([guided_part, conditional[:, count:]], dim=1)

    return denoise


def with_known(denoise: Denoiser, known: Tensor, mask: Tensor, schedule: NoiseSchedule | None) -> Denoiser:
    """A denoiser that knows some of the latents: what it answers there leads any sampler exactly to them.

    Where x_0 is known, so is the noise (or velocity) in x_t, and it takes the place of the prediction. A sampler's x_t
    is then, at the known places, a draw from the forward process of the known latents, which is what the replacement
    methods put there by hand (Song et al., 2021, section 5; Ho et al., 2022, "Video diffusion models", section 3.1),
    and its last step ends in them. The network sees the known places at the noise level of the rest.

    Args:
        known: latents, normalised, broadcastable to x; its values outside the mask do not matter, but are finite.
        mask: bool, broadcastable to x; True where known.
        schedule: the one the model was trained with (not respaced); None for a model of velocities.

    Raises:
        ValueError: a mask that is not boolean.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask must be boolean, True where latents are known, found {mask.dtype}")

    def conditioned(x: Tensor, t: Tensor) -> Tensor:
        output = denoise(x, t)
        if schedule is None:
            time = t.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            exact = (x - known) / time
        else:
            alpha = per_item(schedule.alphas_cumprod, t, x)
            exact = ((x - alpha.sqrt() * known) / (1 - alpha).sqrt()).to(x.dtype)
        channels = x.shape[1]
        held = torch.where(mask, exact, output[:, :channels])
        if output.shape[1] == channels:
            return held
        variance = output[:, channels:].masked_fill(mask.expand_as(x), -1.0)  # that of the true posterior
        return torch.cat([held, variance], dim=1)

    return conditioned
