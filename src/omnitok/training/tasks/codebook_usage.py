"""How much of a codebook is in use, over a window of steps, and the alarm when it collapses."""

import torch
import torch.distributed as dist
from torch import Tensor

from omnitok.distributed import world_size

ENOUGH_TOKENS = 3  # per code: a healthy codebook then shows nearly all of itself


class CodebookUsage:
    """Remembers at which step each code was last chosen.

    Args:
        size: of the codebook.
        window: steps that count.
        threshold: share of the codebook below which `alarm` speaks.
    """

    def __init__(self, size: int, window: int, threshold: float, device: torch.device) -> None:
        self.window, self.threshold = window, threshold
        self.last_chosen = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.first_counted = torch.tensor(-1)  # the step from which codes have been counted
        self.tokens_per_step = 0.0

    def update(self, step: int, codes: Tensor) -> None:
        """Take in this process's codes of a step."""
        self.last_chosen[codes.flatten()] = step
        if self.first_counted < 0:
            self.first_counted.fill_(step)
        tokens = codes.numel() * world_size()
        self.tokens_per_step = 0.9 * self.tokens_per_step + 0.1 * tokens if self.tokens_per_step else float(tokens)

    def share(self, step: int) -> float:
        """Share of the codebook chosen in the last `window` steps up to `step`; all processes call it."""
        if world_size() > 1:
            dist.all_reduce(self.last_chosen, op=dist.ReduceOp.MAX)
        return float((self.last_chosen > step - self.window).float().mean())

    def alarm(self, step: int, share: float) -> str | None:
        """What to do, where the codebook has collapsed; None where it has not, or too few tokens tell."""
        counted = step - int(self.first_counted) + 1
        if self.first_counted < 0 or counted < self.window or share >= self.threshold:
            return None
        if self.tokens_per_step * self.window < ENOUGH_TOKENS * self.last_chosen.numel() * self.threshold:
            return None
        return (
            f"step {step + 1}: the codebook has collapsed, {share:.1%} of its codes were used in the last "
            f"{self.window} steps (alarm below {self.threshold:.0%}); remedies: a higher model.restart_threshold, "
            "--set quantizer_warmup_steps=500, a lower optimizer.lr, or a smaller model.codebook_size"
        )

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return {"last_chosen": self.last_chosen, "first_counted": self.first_counted}
