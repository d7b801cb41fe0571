"""`omnitok train`: a recipe or a written configuration to OUT/model."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from omnitok.cli.failures import UsageError
from omnitok.cli.memory import keep_freed_blocks
from omnitok.cli.report import progress_bar, say
from omnitok.errors import OmnitokError

if TYPE_CHECKING:
    from omnitok.training.settings import AnyConfig

Folders = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DIR")]
Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a tokenizer or a generator by a recipe; the model is in OUT/model from the first checkpoint on.

    OUT also gets config.yaml (the resolved configuration, which can be given in place of a recipe), log.jsonl,
    checkpoints and grids of reconstructions or samples. Ctrl-C or SIGTERM ends with a checkpoint. On several GPUs:
    torchrun --nproc-per-node 8 -m omnitok train RECIPE ...
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE|CONFIG.yaml")]
    """A recipe's name (a wrong one lists them), or the config.yaml of a run."""
    settings: Settings = ()
    """Change one setting of the recipe, such as optimizer.lr=1e-4 or data.resolutions=96,128; may be repeated."""
    images: Folders = ()
    """Folder of pictures; may be repeated."""
    videos: Folders = ()
    """Folder of clips; may be repeated."""
    shards: Folders = ()
    """Folder of token shards (`omnitok tokenize`), in place of pictures and clips; generators only; may be repeated."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR")] = None
    """The tokenizer whose tokens a generator learns (default: the one that made the shards)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the run (default: runs/ and the recipe's name; for a config.yaml, its folder)."""
    init: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """The trained model to start from: the OUT/model of another run (of the stage before), a name, a folder."""
    resume: bool = False
    """Continue from the latest checkpoint in OUT; starts at step 0 where there is none yet."""
    max_steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after step N of the run; the schedule stays that of the recipe (--set steps=N shortens it)."""
    checkpoint_every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Steps between checkpoints (default: the recipe's)."""
    time_limit: Annotated[float | None, tyro.conf.arg(metavar="MIN")] = None
    """Stop, with a checkpoint, after this many minutes."""
    seed: int | None = None
    """Seed of weights, order of the data, crops and noise (default: the recipe's)."""
    device: str = "auto"
    """Where to compute: auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""
    json: bool = False
    """Print the result as JSON on stdout; progress and messages are on stderr either way."""
    dry_run: bool = False
    """Print the resolved configuration, the parameter counts and the data found, and train nothing."""

    def check_options(self) -> None:
        """Raise UsageError where the options alone make no sense."""
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must lie in [0, 2^63), found {self.seed}")
        for name, value in (("max-steps", self.max_steps), ("checkpoint-every", self.checkpoint_every)):
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, found {value}")
        if self.time_limit is not None and not (math.isfinite(self.time_limit) and self.time_limit > 0):
            raise UsageError(f"--time-limit must be a number of minutes above 0, found {self.time_limit}")

    def run(self) -> int:
        """Do all of it; the exit code."""
        self.check_options()
        from omnitok.cli.loading import resolve_device
        from omnitok.distributed import launched_place
        from omnitok.recipes.run import run_recipe
        from omnitok.training.stopping import Limits

        config, out = self._config()
        device = resolve_device(self.device)
        if self.dry_run:
            self._describe(config)
            return 0
        keep_freed_blocks()
        first = launched_place()[0] == 0
        with progress_bar(config.steps, config.name, "step") as bar:
            result = run_recipe(
                config,
                out,
                device=device,
                resume=self.resume,
                limits=Limits(self.max_steps, self.time_limit),
                tell=say if first else _ignore,
                progress=lambda done: bar.update(done - bar.n),
            )
        if not first:
            return 0
        row = {
            "recipe": config.name,
            "output": str(result.model),
            "steps": result.steps,
            "reason": result.reason,
            "skipped": result.skipped,
            "validation": dict(result.validation),
            "last_row": result.last_row,
        }
        if self.json:
            print(json.dumps(row, indent=2))
        else:
            print(f"{result.reason} at step {result.steps} of {config.steps}; the model is in {result.model}")
            for name, value in result.validation.items():
                print(f"  {name}: {value:.4f}")
        return 0

    def _config(self) -> tuple[AnyConfig, Path]:
        """The recipe with everything that the options change, and the run's folder."""
        from omnitok.recipes import find_recipe
        from omnitok.training.config import TrainConfig
        from omnitok.training.settings import apply_settings

        config = find_recipe(self.recipe)
        self._check_kind(isinstance(config, TrainConfig))
        is_file = Path(self.recipe).suffix in (".yaml", ".yml")
        changes: dict[str, Any] = {}
        if self.images:
            changes["data.images"] = [str(path) for path in self.images]
        if self.videos:
            changes["data.videos"] = [str(path) for path in self.videos]
        if self.shards:
            changes["shards"] = [str(path) for path in self.shards]
        if self.tokenizer is not None:
            changes["tokenizer"] = self.tokenizer
        if self.init is not None:
            changes["init.model" if isinstance(config, TrainConfig) else "init"] = self.init
        if self.checkpoint_every is not None:
            changes["checkpoint_every"] = self.checkpoint_every
        if self.seed is not None:
            changes["seed"] = self.seed
        try:
            config = apply_settings(config, self.settings, changes)
        except OmnitokError as error:
            raise UsageError(str(error)) from error
        default = Path(self.recipe).parent if is_file else Path("runs") / config.name
        return config, self.out or default

    def _check_kind(self, is_tokenizer: bool) -> None:
        """Raise UsageError for options of the other kind of model."""
        if is_tokenizer and (self.shards or self.tokenizer is not None):
            option = "--shards" if self.shards else "--tokenizer"
            raise UsageError(f"{option} is for generators, and {self.recipe} trains a tokenizer")

    def _describe(self, config: AnyConfig) -> None:
        from omnitok.recipes.run import describe

        description = describe(config)
        if self.json:
            print(json.dumps(description, indent=2))
            return
        import yaml

        print(yaml.safe_dump(description, sort_keys=False), end="")


def _ignore(message: str) -> None:
    """Processes other than the first say nothing."""
