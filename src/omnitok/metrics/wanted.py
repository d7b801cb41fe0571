"""What samples were asked to show: by the note that `omnitok generate` leaves, by lists with labels and captions."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnitok.data.index import build_index
from omnitok.data.modality import Modality
from omnitok.errors import OmnitokError, describe, reading
from omnitok.files import SAMPLE_NOTE, sample_slug
from omnitok.metrics.colors import COLORS
from omnitok.metrics.samples import check_files, files_by_modality

_NUMBERED = re.compile(r"(\d{6,})(?:-(.*))?")
_OTHER_SPELLINGS = {"gray": "grey"}


@dataclass(frozen=True)
class Wanted:
    """What one sample was asked to show; what is not known is None.

    Attributes:
        path: of the sample.
        text: its caption.
        label: the name of its class.
        color: of its object, one of `COLORS`.
    """

    path: Path
    text: str | None = None
    label: str | None = None
    color: str | None = None


def read_wanted(source: str | os.PathLike[str], modality: Modality, classes: Sequence[str] = ()) -> list[Wanted]:
    """The images or videos of a source, and what each was asked to show.

    - A folder that `omnitok generate` wrote: what its `generate.json` says of texts, and the classes in the names.
    - Another folder, or a list (`.csv`, `.jsonl`, `.txt`): labels and captions as `omnitok tokenize` finds them; of
      several captions the first.

    Where only a text is known, the class is the first of `classes` that it names, and the colour the first colour that
    is not that of a background.

    Raises:
        OmnitokError: it is missing, empty, or not what it says.
    """
    source = Path(source)
    if (source / SAMPLE_NOTE).is_file():
        found = _generated(source, modality, classes)
    else:
        found = _listed(source, modality)
    if not found:
        raise OmnitokError(f"{source}: there are no {modality}s")
    return [_complete(wanted, classes) for wanted in found]


def class_in(text: str, classes: Sequence[str]) -> str | None:
    """The class that a text names first, in one or several ("apple", "apples"); the longest of several there."""
    words = " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))
    found = []
    for name in classes:
        spoken = " ".join(re.findall(r"\w+", name.casefold().replace("_", " ")))
        if spoken and (match := re.search(rf"\b{re.escape(spoken)}(?:e?s)?\b", words)):
            found.append((match.start(), -len(spoken), name))
    return min(found)[2] if found else None


def color_in(text: str) -> str | None:
    """The first of `COLORS` in a text that is not followed by "background"."""
    words = [_OTHER_SPELLINGS.get(word, word) for word in re.findall(r"\w+", text.casefold())]
    following = [*words[1:], ""]
    return next(
        (word for word, after in zip(words, following, strict=False) if word in COLORS and after != "background"), None
    )


def _complete(wanted: Wanted, classes: Sequence[str]) -> Wanted:
    if wanted.text is None:
        return wanted
    label = wanted.label if wanted.label is not None else class_in(wanted.text, classes)
    return Wanted(wanted.path, wanted.text, label, color_in(wanted.text))


def _generated(folder: Path, modality: Modality, classes: Sequence[str]) -> list[Wanted]:
    """By the number in each name, which goes through the texts in turns."""
    note = folder / SAMPLE_NOTE
    with reading(note, what="note of samples"):
        texts = json.loads(note.read_text(encoding="utf-8")).get("texts")
    if texts is not None and not (isinstance(texts, list) and texts and all(isinstance(t, str | None) for t in texts)):
        raise OmnitokError(f"{note}: texts is {describe(texts)}, where a list of texts is wanted")
    of_slug = {sample_slug(name): name for name in classes}
    found = []
    for path in files_by_modality(folder).get(modality, []):
        match = _NUMBERED.fullmatch(path.stem)
        if match is None:
            raise OmnitokError(f"{path}: is not named as a sample, 000000-NAME, though {SAMPLE_NOTE} lies beside it")
        text = texts[int(match[1]) % len(texts)] if texts else None
        label = of_slug.get(match[2] or "") if text is None else None
        found.append(Wanted(path, text, label))
    return found


def _listed(source: Path, modality: Modality) -> list[Wanted]:
    index = build_index(source, labels="auto", captions=True)
    check_files(index[modality])
    found = []
    for sample in index[modality]:
        captions = sample.read_captions()
        label = None
        if sample.label >= 0:
            label = index.classes[sample.label] if sample.label < len(index.classes) else str(sample.label)
        found.append(Wanted(Path(sample.path), captions[0] if captions else None, label))
    return found
