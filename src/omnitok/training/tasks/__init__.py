"""The two kinds of task: a tokenizer, and a generator over the tokens of one."""

from omnitok.training.config import AnyConfig, TrainConfig
from omnitok.training.task import Task
from omnitok.training.tasks.generator import GeneratorTask
from omnitok.training.tasks.tokenizer import TokenizerTask

__all__ = ["GeneratorTask", "TokenizerTask", "make_task"]


def make_task(config: AnyConfig) -> Task:
    """The task that a configuration describes."""
    return TokenizerTask(config) if isinstance(config, TrainConfig) else GeneratorTask(config)
