"""Images and frames a second, and the share of the device's arithmetic that the model uses."""

import functools
import re
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from omnitok.models.autoencoder import Decoder, Encoder, TokenizerConfig

# Dense bfloat16 peak in TFLOP/s, from the makers' data sheets; a whole word of `torch.cuda.get_device_name()`.
PEAK_TFLOPS = {
    "GH200": 989.0, "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0, "V100": 125.0
}  # fmt: skip


def peak_tflops(device: torch.device) -> float | None:
    """Peak of a known GPU; None for others and for the CPU."""
    words = re.findall(r"\w+", torch.cuda.get_device_name(device)) if device.type == "cuda" else []
    return next((PEAK_TFLOPS[word] for word in words if word in PEAK_TFLOPS), None)


@functools.cache  # several trainings in one process ask the same; counting takes longer than a small model's step
def forward_flops(config: TokenizerConfig, shape: tuple[int, ...]) -> int:
    """Floating-point operations of the encoder and decoder for pixels of this shape, (b, 3, H, W) or (b, 3, T, H, W).

    Counted on the meta device: nothing is computed. The bottleneck is left out.
    """
    t, h, w = config.latent_shape(shape[2] if len(shape) == 5 else 1, *shape[-2:])
    p = config.patch_size
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        Decoder(config)(Encoder(config)(torch.empty(shape[0], config.channels, config.num_frames(t), h * p, w * p)))
    return counter.get_total_flops()


class Throughput:
    """Counts what the steps since the last `rates` went through.

    Args:
        forward_flops: floating-point operations of the model's forward for pixels of a shape (b, 3, (T,) H, W); a step
            of training needs three times as many.
        peak: of the device in TFLOP/s; None where it is not known.
        world_size: processes, each with batches of the same shape.
    """

    def __init__(self, forward_flops: Callable[[tuple[int, ...]], int], peak: float | None, world_size: int) -> None:
        self._forward_flops, self._peak, self._world_size = forward_flops, peak, world_size
        self._flops_of: dict[tuple[int, ...], int] = {}
        self._reset()

    def _reset(self) -> None:
        self._began = time.perf_counter()
        self._images, self._frames, self._flops = 0, 0, 0

    def pause(self, seconds: float) -> None:
        """Leave out time spent on something else than training."""
        self._began += seconds

    def update(self, shape: tuple[int, ...]) -> None:
        """One step of a batch of this shape on each process."""
        one = (1, *shape[1:])
        if one not in self._flops_of:
            self._flops_of[one] = self._forward_flops(one)
        samples = shape[0] * self._world_size
        if len(shape) == 4:
            self._images += samples
        else:
            self._frames += samples * shape[2]
        self._flops += 3 * samples * self._flops_of[one]

    def rates(self) -> dict[str, float]:
        """ "pictures_per_second", "frames_per_second", "tflops" and, where the peak is known, "mfu" in [0, 1]."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        tflops = self._flops / seconds / 1e12
        rates = {
            "pictures_per_second": round(self._images / seconds, 3),
            "frames_per_second": round(self._frames / seconds, 3),
            "tflops": round(tflops, 4),
        }
        if self._peak is not None:
            rates["mfu"] = round(tflops / (self._peak * self._world_size), 4)
        self._reset()
        return rates
