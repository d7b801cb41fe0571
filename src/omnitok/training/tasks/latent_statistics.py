"""Mean and deviation of a KL autoencoder's latents, which generators normalise with."""

from collections.abc import Iterable

import torch
from torch import Tensor

from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer


@torch.no_grad()
def latent_statistics(tokenizer: OmniTokenizer, batches: Iterable[Tensor]) -> LatentStatistics:
    """Per-channel mean and standard deviation of latents drawn from the posteriors of pixels (b, 3, (T,) H, W).

    The deviation includes the posterior's own: Var[z] = Var[mean] + E[exp(logvar)]. Every latent position counts alike.
    """
    channels = tokenizer.latent_channels
    count = 0
    first, second = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    for pixels in batches:
        posterior = tokenizer.encode(pixels, check_range=False).posterior
        if posterior is None:
            raise ValueError("latent statistics are of Gaussian latents; this tokenizer quantizes")
        mean = posterior.mean.double().cpu().movedim(1, -1).reshape(-1, channels)  # n c
        variance = posterior.logvar.double().exp().cpu().movedim(1, -1).reshape(-1, channels)
        count += len(mean)
        first += mean.sum(0)
        second += (mean.square() + variance).sum(0)
    if not count:
        raise ValueError("latent statistics need at least one batch")
    average = first / count
    deviation = (second / count - average.square()).clamp_min(0).sqrt()
    return LatentStatistics(tuple(average.tolist()), tuple(deviation.tolist()))
