"""`omnitok train`: a recipe, a written configuration or the folder of a run to OUT/model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from omnitok.cli.failures import UsageError, naming_options, naming_settings
from omnitok.cli.options import SAID, ChannelRanges, channel_ranges, require_models, require_paths, resolve_device
from omnitok.cli.report import print_json, progress_bar, say
from omnitok.memory import keep_freed_blocks

if TYPE_CHECKING:
    from omnitok.training.config import AnyConfig
    from omnitok.training.trainer import TrainResult

Folders = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DIR")]
Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a tokenizer or a generator by a recipe; the model is in OUT/model from the first checkpoint on.

    OUT also gets config.yaml (all settings), log.jsonl, curves.png, checkpoints and previews. Ctrl-C or SIGTERM ends
    with a checkpoint. On several GPUs: torchrun --nproc-per-node 8 -m omnitok train RECIPE ...
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE|RUN|CONFIG.yaml"), SAID] = ""
    """A recipe's name (`omnitok recipes` lists them), the folder of a run or its config.yaml (default: that of OUT)."""
    set: Settings = ()
    """Change one setting of the recipe, such as optimizer.lr=1e-4 or data.resolutions=96,128; may be repeated."""
    images: Folders = ()
    """Folder of images; may be repeated."""
    videos: Folders = ()
    """Folder of videos; may be repeated."""
    ranges: ChannelRanges = None
    """Values of .npy, TIFF and 16-bit grey files that become -1 and 1, 0:10000 or 0:1,2:9 (default: of --init)."""
    shards: Folders = ()
    """Folder of token shards (`omnitok tokenize`), in place of images and videos; generators only; may be repeated."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR"), SAID] = None
    """The tokenizer whose tokens a generator learns (default: the one that made the shards)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR"), SAID] = None
    """Folder of the run (default: runs/ and the recipe's name; for a run or its config.yaml, its folder)."""
    init: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """The trained model to start from: another run (such as the previous stage), a name or a model folder."""
    resume: bool = False
    """Continue from the latest checkpoint in OUT, with the settings of its config.yaml; without one, from step 0."""
    lr: Annotated[float | None, tyro.conf.arg(metavar="LR")] = None
    """The highest learning rate; short for --set optimizer.lr=LR."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Samples per step, images and videos alike; short for --set data.image_batch=N --set data.video_batch=N."""
    epochs: Annotated[float | None, tyro.conf.arg(metavar="N")] = None
    """Not available: the length of a run is --set steps=N; an epoch is (number of samples / batch size) steps."""
    max_steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after step N of the run; the schedule stays that of the recipe (--set steps=N shortens it)."""
    checkpoint_every: Annotated[int | None, tyro.conf.arg(metavar="N"), SAID] = None
    """Steps between checkpoints (default: the recipe's)."""
    time_limit: Annotated[float | None, tyro.conf.arg(metavar="MIN")] = None
    """Stop, with a checkpoint, after this many minutes."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="N"), SAID] = None
    """Seed of weights, order of the data, crops and noise (default: the recipe's)."""
    device: str = "auto"
    """Where to compute: auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""
    json: bool = False
    """Print the result as JSON on stdout; progress and messages are on stderr either way."""
    dry_run: bool = False
    """Print the resolved configuration, the parameter counts and the data found, and train nothing."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        if self.epochs is not None:
            raise UsageError("--epochs: give --set steps=N; an epoch is (number of samples / batch size) steps")
        if not self.recipe and self.out is None:
            raise UsageError("give a recipe (`omnitok recipes` lists them), or --out with the folder of a run")
        config_file = [Path(self.recipe)] if self.recipe.endswith((".yaml", ".yml")) else []
        data = () if self.set else (*self.images, *self.videos, *self.shards)  # settings are told first
        require_paths(*config_file, *data)
        require_models(self.tokenizer, self.init)
        from omnitok.distributed import Processes, launched_place
        from omnitok.training.settings import to_yaml
        from omnitok.training.stopping import Limits
        from omnitok.training.tasks import make_task
        from omnitok.training.trainer import Trainer

        with naming_options():
            limits = Limits(max_steps=self.max_steps, time_limit=self.time_limit)
        config, out = self._config()
        device = resolve_device(self.device)
        task = make_task(config)
        if self.dry_run:
            task.resolve(Processes(0, 1, device), None, say)
            print_json(task.describe()) if self.json else print(to_yaml(task.describe()).rstrip())
            return 0
        keep_freed_blocks()
        is_first = launched_place()[0] == 0
        with progress_bar(config.steps, config.name, "step") as bar:

            def progress(done: int, line: str | None) -> None:
                bar.update(done - bar.n)
                if line and bar.disable and is_first:
                    say(line)
                elif line:
                    bar.set_postfix_str(line.partition(": ")[2].rpartition(", ")[0])

            common: dict[str, Any] = {"device": device, "resume": self.resume, "limits": limits, "progress": progress}
            result = Trainer(task, config, out, say=say if is_first else lambda _: None, **common).fit()
        return self._tell(config, result) if is_first else 0

    def _config(self) -> tuple[AnyConfig, Path]:
        """The recipe, or what the run was started with, with everything that the options change; the run's folder."""
        from omnitok.recipes import find_run
        from omnitok.training.config import TrainConfig
        from omnitok.training.settings import apply_settings

        config, out = find_run(self.recipe, self.out, self.resume)
        is_tokenizer = isinstance(config, TrainConfig)
        if is_tokenizer and (self.shards or self.tokenizer is not None):
            raise UsageError(f"--shards and --tokenizer are for generators, and {config.name} trains a tokenizer")
        folders = {"data.images": self.images, "data.videos": self.videos, "shards": self.shards}
        options: dict[str, Any] = {key: list(map(str, given)) or None for key, given in folders.items()}
        options |= {
            "data.ranges": list(channel_ranges(self.ranges)) or None,
            "tokenizer": self.tokenizer,
            "init.model" if is_tokenizer else "init": self.init,
            "optimizer.lr": self.lr,
            **dict.fromkeys(("data.image_batch", "data.video_batch"), self.batch_size),
            "checkpoint_every": self.checkpoint_every,
            "seed": self.seed,
        }
        changes = {key: value for key, value in options.items() if value is not None}
        with naming_settings(changes):
            return apply_settings(config, self.set, changes), out

    def _tell(self, config: AnyConfig, result: TrainResult) -> int:
        if self.json:
            row = {"recipe": config.name, "output": str(result.model), "steps": result.steps, "reason": result.reason}
            print_json(row | {key: getattr(result, key) for key in ("skipped", "validation", "last_row")})
        else:
            print(f"{result.reason} at step {result.steps} of {config.steps}; the model is in {result.model}")
            for name, value in result.validation.items():
                print(f"  {name}: {value:.4f}")
        if result.steps < config.steps:
            say(f"continue with: omnitok train {result.out} --resume")
        return 0
