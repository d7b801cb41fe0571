"""Models that a library keeps and computes, named `LIBRARY:FOLDER_OR_HUB_ID` or `LIBRARY:FOLDER_OR_HUB_ID#SUBFOLDER`:
where their files are, and what these hold.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from omnitok.errors import CheckpointError, MissingExtraError, describe, reading
from omnitok.hub.download import HUB_ID, from_hub
from omnitok.hub.header import CONFIG_NAME, read_json, read_weight_map
from omnitok.hub.released.reader import read_released_checkpoint


@dataclass(frozen=True)
class Library:
    """How a library keeps its models.

    Attributes:
        weights: names of files with weights, or of an index of such files, in the order in which they are looked for.
        configure: fields of `config.json`, and what the model was named by -> the tokenizer's config. It raises
            CheckpointError for a model that is not taken, before weights are looked for.
        rename: a weight's name, and the fields -> its name in the tokenizer; None for a weight of another part.
        hint: what to say of a folder without `config.json`: "; it is …", or nothing.
    """

    weights: tuple[str, ...]
    configure: Callable[[dict[str, Any], str], dict[str, Any]]
    rename: Callable[[str, Mapping[str, Any]], str | None]
    hint: Callable[[Path], str] = lambda folder: ""


def find_name(
    config: Mapping[str, Any], field: str, known: Iterable[str], refused: Mapping[str, str], models: str
) -> str:
    """The architecture that a configuration names.

    Args:
        field: where the configuration names it.
        known: the architectures that are taken.
        refused: those that the library has and that are not taken, and why.
        models: what those are that are taken, in the plural.

    Raises:
        CheckpointError: it is not taken.
    """
    name = config.get(field)
    if isinstance(name, str) and name in known:
        return name
    if isinstance(name, str) and name in refused:
        raise CheckpointError(f"{name} {refused[name]}: it cannot be a tokenizer here")
    raise CheckpointError(f"field {field} is {describe(name)}, known {models} are {', '.join(known)}")


def import_class(library: str, name: str) -> tuple[Any, Any]:
    """A library, which is imported, and one of its classes.

    Raises:
        CheckpointError: the installed version does not have the class.
        MissingExtraError: the library is not installed.
    """
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        raise MissingExtraError.of(library) from error
    found = getattr(module, name, None)
    if found is None:
        raise CheckpointError(f"{library} {module.__version__}, which is installed, has no {name}; a newer one may")
    return module, found


class Reference:
    """The files of one model.

    Args:
        library: its name.
        how: it keeps its models.
        text: a folder or a hub id `owner/name`, with `#SUBFOLDER` where the model lies in one.
    """

    def __init__(self, library: str, how: Library, text: str) -> None:
        self._library, self._how, self._text = library, how, text
        self._place, _, self._subfolder = text.partition("#")

    def config(self) -> dict[str, Any]:
        """The tokenizer's.

        Raises:
            CheckpointError: missing or damaged files, or a model that is not taken.
        """
        fields = self._fields()
        with self.telling():
            return self._how.configure(fields, self._text)

    def weights(self) -> dict[str, Tensor]:
        """The tokenizer's, under the names that they have there.

        Raises:
            CheckpointError: missing or damaged files.
        """
        fields = self._fields()

        def rename(name: str) -> str | None:
            return self._how.rename(name, fields)

        found: dict[str, Tensor] = {}
        for path in self._find_weights(rename):
            weights = read_released_checkpoint(path).state_dict
            found |= {new: weight for name, weight in weights.items() if (new := rename(name)) is not None}
        return found

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """What is wrong within it is told of the folder or hub id."""
        path = self._find(CONFIG_NAME)
        name = path.parent if Path(self._place).is_dir() else self._text
        with reading(path, CheckpointError, f"configuration of {self._library}"):
            try:
                yield
            except CheckpointError as error:
                raise CheckpointError(f"{name}: {error}") from error

    def _fields(self) -> dict[str, Any]:
        return read_json(self._find(CONFIG_NAME))

    def _find(self, name: str) -> Path:
        """A file of the local folder or hub repository."""
        folder = Path(self._place)
        if folder.is_dir():
            path = folder / self._subfolder / name
            if path.is_file():
                return path
            hint = self._how.hint(folder) if name == CONFIG_NAME else ""
            raise CheckpointError(f"{folder / self._subfolder}: holds no {name}{hint}")
        if folder.exists() or not HUB_ID.fullmatch(self._place):
            raise CheckpointError(
                f"{self._place}: must be a folder, or a hub id owner/name, of a model of {self._library}"
            )
        return from_hub(self._place, f"{self._subfolder}/{name}" if self._subfolder else name)

    def _find_weights(self, rename: Callable[[str], str | None]) -> list[Path]:
        problems = []
        for name in self._how.weights:
            try:
                path = self._find(name)
            except CheckpointError as error:
                problems.append(error)
                continue
            if path.suffix != ".json":
                return [path]
            wanted = {file for weight, file in read_weight_map(path).items() if rename(weight) is not None}
            return [self._find(file) for file in sorted(wanted)]
        raise problems[0]
