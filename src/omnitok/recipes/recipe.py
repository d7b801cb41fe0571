"""What is told of a training run beside its configuration."""

from dataclasses import dataclass, replace

from omnitok.training.config import AnyConfig
from omnitok.training.settings import Config, apply_settings


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        config: what `omnitok train NAME` starts from.
        purpose: what it is for: the paper's table and row, or the model that ships.
        data: what it was or would be trained on.
        cost: hardware and time.
        expected: the score that it should give, and where that is from.
        arguments: of `omnitok train` beside the name.
        processes: that `torchrun` starts; 1 is without it.
    """

    config: AnyConfig
    purpose: str
    data: str
    cost: str
    expected: str
    arguments: str
    processes: int = 1

    @property
    def command(self) -> str:
        """The whole command; its model is then in runs/NAME/model, and runs/NAME can be given as a model."""
        start = f"torchrun --nproc-per-node {self.processes} -m omnitok" if self.processes > 1 else "omnitok"
        return f"{start} train {self.config.name} {self.arguments}"


def changed(config: Config, name: str, settings: str) -> Config:
    """`config` under another name, with settings as `--set` takes them: "a.b=1 c={d: 2, e: 3}"."""
    pairs, rest = [], settings.strip()
    while rest:
        key, _, rest = rest.partition("=")
        end = rest.index("}") + 1 if rest.startswith("{") else (rest + " ").index(" ")  # blanks in braces part nothing
        pairs.append(f"{key}={rest[:end]}")
        rest = rest[end:].strip()
    return apply_settings(replace(config, name=name), pairs)
