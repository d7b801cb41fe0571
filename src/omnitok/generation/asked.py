"""What samples are asked to show: classes, texts, or sequences of embeddings from files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omnitok.data.embeddings import read_embeddings
from omnitok.files import sample_slug
from omnitok.generation.loading import AnyGenerator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.conditions import TextCondition, make_conditions


@dataclass(frozen=True)
class Asked:
    """What one sample is asked to show.

    Attributes:
        value: a class number, a text, or embeddings (n, d), as `Generator.sample` takes it; None for anything.
        name: the class's name, the text, or the file's name; None for anything.
    """

    value: int | str | Tensor | None = None
    name: str | None = None

    @property
    def slug(self) -> str:
        """The end of a file's name, before its suffix."""
        return "" if self.name is None else f"-{sample_slug(self.name)}"

    @property
    def note(self) -> int | str | None:
        """What is noted of it beside samples."""
        return self.name if isinstance(self.value, Tensor) else self.value


ANYTHING = Asked()


def parse_asked(
    generator: AnyGenerator, labels: Sequence[str] = (), texts: Sequence[str] = (), files: Sequence[Path] = ()
) -> list[Asked]:
    """What is asked for by classes, texts, or files of embeddings; without any, one of anything.

    Args:
        labels: class names or numbers, see `parse_labels`.
        files: `.npy` files (n, d).

    Raises:
        ValueError: the model takes no such thing, or not this one; the message begins with the argument's name.
        OmnitokError: a file cannot be read.
    """
    settings, config = generator.settings, generator.model.config
    condition = config.condition
    takes = "labels" if condition is None else "text" if isinstance(condition, TextCondition) else "embeddings"
    for name, given in (("labels", labels), ("text", texts), ("embeddings", files)):
        if given and name != takes:
            other = f"it takes --{takes}" if config.num_classes or condition else "it takes no condition"
            raise ValueError(f"{name}: this model has no {'classes' if name == 'labels' else name}; {other}")
    if condition is None:
        numbers = parse_labels(labels, settings, config.num_classes)
        return [Asked(number, class_name(number, settings)) for number in numbers]
    asked = [Asked(text, text) for text in dict.fromkeys(texts)]
    asked += [Asked(torch.from_numpy(read_embeddings(path)), path.stem) for path in files]
    asked = asked or [ANYTHING]
    try:
        make_conditions(condition, [each.value for each in asked])
    except ValueError as error:
        raise ValueError(f"{takes}: {error}") from error
    return asked


def parse_negative(generator: AnyGenerator, text: str) -> int | str:
    """What guidance is to lead away from: a class, or of a model of texts a text.

    Raises:
        ValueError: the model takes neither, or it is no class.
    """
    condition = generator.model.config.condition
    if condition is not None and not isinstance(condition, TextCondition):
        raise ValueError("negative: this model takes embeddings, which have no negative text")
    asked = parse_asked(generator, texts=[text]) if condition else parse_asked(generator, labels=[text])
    value = asked[0].value
    assert isinstance(value, int | str)
    return value


def class_name(label: int | None, settings: GeneratorSettings) -> str | None:
    """The name of a class, or its number where it has none."""
    if label is None:
        return None
    return settings.classes[label] if label < len(settings.classes) else str(label)


def parse_labels(texts: Sequence[str], settings: GeneratorSettings, num_classes: int) -> list[int | None]:
    """Classes by name, by number, or "all"; without any, one None, which is any class.

    Raises:
        ValueError: an unknown class, with some known ones.
    """
    if not texts:
        return [None]
    if not num_classes:
        raise ValueError("labels: this model has no classes")
    numbers: list[int | None] = []
    for text in texts:
        if text in settings.classes:
            numbers.append(settings.classes.index(text))
        elif text == "all":
            numbers.extend(range(num_classes))
        elif text.isdecimal() and len(text) < 10 and int(text) < num_classes:
            numbers.append(int(text))
        else:
            known = ", ".join(settings.classes[:20]) + (" …" if len(settings.classes) > 20 else "")
            listed = f", or one of {known}" if known else ""
            raise ValueError(f"labels: found {text!r}; a class is a number from 0 to {num_classes - 1}{listed}")
    return list(dict.fromkeys(numbers))
