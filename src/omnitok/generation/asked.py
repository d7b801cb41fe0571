"""What samples are asked to show: classes, texts, or sequences of embeddings from files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omnitok.data.embeddings import AUDIO, TEXT, read_embeddings
from omnitok.data.log_mel import log_mel
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
    """What is asked for by classes, texts, or embeddings; without any, one of anything.

    Args:
        labels: class names or numbers, see `parse_labels`.
        texts: of a model of texts, or of the embeddings of a text encoder.
        files: `.npy` files (n, d), or of a model of sounds videos or files of sound.

    Raises:
        ValueError: the model takes no such thing, or not this one; the message begins with the argument's name.
        OmnitokError: a file cannot be read.
    """
    settings, config = generator.settings, generator.model.config
    condition = config.condition
    takes = accepted(generator)
    for name, given in (("labels", labels), ("text", texts), ("embeddings", files)):
        if given and name not in takes:
            other = f"it takes --{takes[0]}" if config.is_conditional else "it takes no condition"
            raise ValueError(f"{name}: this model has no {'classes' if name == 'labels' else name}; {other}")
    if condition is None:
        numbers = parse_labels(labels, settings, config.num_classes)
        return [Asked(number, class_name(number, settings)) for number in numbers]
    asked = [Asked(text, text) for text in dict.fromkeys(texts)]
    asked += [Asked(_read(path, generator), path.stem) for path in files]
    asked = asked or [ANYTHING]
    try:
        values = [each.value for each in asked]
        make_conditions(
            condition, [None if isinstance(value, str) and "embeddings" in takes else value for value in values]
        )
    except ValueError as error:
        raise ValueError(f"{takes[0]}: {error}") from error
    return asked


def accepted(generator: AnyGenerator) -> tuple[str, ...]:
    """What a generator can be asked by, as flags of the command line: "labels", "text", "embeddings"."""
    condition = generator.model.config.condition
    if condition is None:
        return ("labels",)
    if isinstance(condition, TextCondition):
        return ("text",)
    return ("text", "embeddings") if generator.settings.embeddings.startswith(TEXT) else ("embeddings",)


def _read(path: Path, generator: AnyGenerator) -> Tensor:
    """The embeddings in a file; of a model of sounds also the sound of a file, as long as the model's videos."""
    settings, tokenizer = generator.settings, generator.tokenizer
    if settings.embeddings != AUDIO or path.suffix.lower() == ".npy":
        return torch.from_numpy(read_embeddings(path))
    count = tokenizer.latent_shape(settings.num_frames, settings.height, settings.width)[0]
    return log_mel(path, [0.0, *(tokenizer.num_frames(i + 1) / settings.frame_rate for i in range(count))])


def parse_negative(generator: AnyGenerator, text: str) -> int | str:
    """What guidance is to lead away from: a class, or of a model of texts a text.

    Raises:
        ValueError: the model takes neither, or it is no class, or several; the message begins with "negative".
    """
    takes = accepted(generator)
    if takes == ("embeddings",):
        raise ValueError("negative: this model takes embeddings, which have no negative text")
    is_class = takes == ("labels",)
    try:
        asked = parse_asked(generator, [text] if is_class else [], [] if is_class else [text])
    except ValueError as error:
        raise ValueError(f"negative: {str(error).partition(': ')[2]}") from error
    value = asked[0].value
    if len(asked) > 1 or not isinstance(value, int | str):
        raise ValueError(f"negative: guidance leads away from one class, found {text!r}")
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
