"""The flags of `omnitok tokenize` for who does the work: which part of it, in which processes, on which machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from omnitok.cli.failures import UsageError
from omnitok.cli.options import SAID, require_least

if TYPE_CHECKING:
    from omnitok.hub.text_encoders import TextEncoder
    from omnitok.models.protocol import Tokenizer
    from omnitok.tokenization.job import TokenizeJob

OptionalCount = Annotated[int | None, tyro.conf.arg(metavar="N"), SAID]


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """Who does the work."""

    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Do only part I of N, counted from 0."""
    engine: Literal["local", "torchrun", "ray"] = "local"
    """local: this process, or all of torchrun's; torchrun: insist on torchrun; ray: Ray Data, here or on a cluster."""
    ray_address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS"), SAID] = None
    """An existing Ray cluster, such as auto or ray://HOST:10001 (default: start one on this machine)."""
    actors: OptionalCount = None
    """Tokenizer actors of --engine ray (default: one per GPU, or one per two CPUs)."""
    workers: OptionalCount = None
    """Processes that read ahead (default: one less than there are CPUs, at most 8)."""

    def check_engine(self) -> None:
        """Raise UsageError where these options alone make no sense."""
        require_least(self, actors=1, workers=0)
        if self.engine != "ray" and (self.ray_address is not None or self.actors is not None):
            raise UsageError("--ray-address and --actors are for --engine ray")
        if self.engine == "ray" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError("--engine ray shares the work by itself: start it without torchrun")
        if self.engine == "torchrun" and "WORLD_SIZE" not in os.environ:
            raise UsageError(
                "--engine torchrun needs torchrun: torchrun --standalone --nproc-per-node N -m omnitok tokenize ..."
            )

    def do(
        self,
        job: TokenizeJob,
        tokenizer: Tokenizer,
        text_encoder: TextEncoder | None,
        device: str,
        progress: Callable[[int], object],
    ) -> None:
        """Make the shards of `job`; `device` is for actors, which load the models themselves."""
        if self.engine == "ray":
            from omnitok.tokenization.on_ray import tokenize_on_ray

            tokenize_on_ray(job, device, self.ray_address, self.actors, progress)
        else:
            from omnitok.tokenization.pipeline import tokenize_here

            workers = self.workers if self.workers is not None else min(8, (os.cpu_count() or 1) - 1)
            tokenize_here(job, tokenizer, workers, progress, text_encoder)
