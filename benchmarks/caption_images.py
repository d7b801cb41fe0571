"""Captions for folders of classes, from the class and from measured colours: "a red dress on a light background".

    python benchmarks/caption_images.py IMAGES -o train.jsonl --statistics
    python benchmarks/caption_images.py IMAGES -o held.jsonl --wordings held-out --pairs all
    python benchmarks/caption_images.py IMAGES -o pairs.jsonl --wordings held-out --pairs held-out
    python benchmarks/caption_images.py IMAGES -o train.jsonl --prompts prompts

SOURCE holds a folder a class, of images or of videos. Each line of the list has `path`, `label` and `caption` (every
wording that is true of the file), and `color` and `background` where they were measured surely enough to be said. The
same files give the same list; nothing is drawn at random. This is a script and no part of the library, because the
nouns, the classes whose colour means something and the held-out pairs belong to one data set.

What is kept for evaluation: the wordings of `HELD_OUT` are in no list for training (`--wordings train`, or `many`,
three times as many), and neither are the images of the pairs of class and colour in `HELD_OUT_PAIRS`. Their images
are left out rather than captioned without the colour: a model that had seen blue dresses, under whatever words, would
draw some of them unasked.

`--prompts FOLDER` writes what to ask of a trained model: `held_wordings.txt` (pairs with at least `--least` images) and
`held_pairs.txt`, a prompt a line.
"""

import argparse
import csv
import json
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from omnitok.atomic import atomic_path
from omnitok.data import list_media, read_image
from omnitok.data.modality import modality_of
from omnitok.data.transforms import fit_square
from omnitok.metrics.colors import COLORS, measure_colors

SURE = 0.15  # margin from which on a colour is said
SURE_BACKGROUND = 0.4

COLORED = ("apple", "dress", "motorbike", "pants", "shoes", "watch")
"""Classes whose colour is said. In images of cartons the hand that holds them is measured; leopards have one colour."""
STANDING = COLORED[1:]
"""Classes whose images have a background; apples lie in heaps."""
SAID = {"apple": ("red", "yellow", "green"), "watch": tuple(name for name in COLORS if name != "brown")}
"""Where not every colour is believed: dim shops make apples brown, and gold is no basic colour term."""
PAIRS = ("pants", "shoes")  # nouns that come in pairs

HELD_OUT_PAIRS = {("dress", "blue"), ("pants", "red"), ("shoes", "white"), ("motorbike", "black")}
"""Each of these colours is learnt from other classes, and each class from other colours."""

# {thing}: "a red dress"; {plain}: "a dress"; {noun}: "dress"; {color}; {ground}: "a light background"
TRAIN = (
    "{thing}",
    "{color} {noun}",
    "{noun}, {color}",
    "{plain} in {color}",
    "photo of {thing}",
    "a photo of {thing}",
    "{thing} on {ground}",
    "{color} {noun}, {ground}",
    "photo of {thing} against {ground}",
    "{plain}",
    "{noun}",
    "photo of {plain}",
    "{plain} on {ground}",
)
MANY = (
    *TRAIN,
    "this is {thing}",
    "here is {thing}",
    "there is {thing}",
    "show me {thing}",
    "draw {thing}",
    "one can see {thing} here",
    "a picture of {thing}",
    "an image of {thing}",
    "an image with {thing} in it",
    "a snapshot showing {thing}",
    "the {color} {noun}",
    "{noun} of {color} colour",
    "{plain}, which is {color}",
    "{plain} that is {color}",
    "the colour of {plain}: {color}",
    "{color}: {plain}",
    "{noun} ({color})",
    "{ground} and {thing}",
    "{thing} in front of {ground}",
    "on {ground}, {thing}",
    "this is {plain}",
    "there is {plain}",
    "an image of {plain}",
    "a picture with {plain} in it",
)
"""More wordings, for a text encoder that is trained from nothing: it has to learn which words matter."""

HELD_OUT = (
    "look at {thing}",
    "an image that shows {thing}",
    "{plain} whose colour is {color}",
    "{ground} behind {thing}",
    "an image that shows {plain}",
)

# {does}: "closes something"; {verb}: "close"; {scene}: "a kitchen"
TRAIN_VIDEOS = (
    "a robot arm {does}",
    "{verb}",
    "robot arm, {verb}",
    "a video of a robot arm that {does}",
    "a robot arm {does} in {scene}",
    "{verb}, {scene}",
    "{scene}, where a robot arm {does}",
)
HELD_OUT_VIDEOS = ("the arm of a robot {does}", "{scene} with a robot that {does}")

WORDINGS = {"train": (TRAIN, TRAIN_VIDEOS), "many": (MANY, TRAIN_VIDEOS), "held-out": (HELD_OUT, HELD_OUT_VIDEOS)}


@dataclass(frozen=True)
class Row:
    """A line of the list."""

    path: Path
    label: str
    color: str | None
    backgrounds: tuple[str, ...]
    captions: tuple[str, ...]

    def line(self) -> str:
        """As JSON."""
        values: dict[str, object] = {"path": str(self.path), "label": self.label, "caption": self.captions}
        if self.color is not None:
            values["color"] = self.color
        if self.backgrounds:
            values["background"] = self.backgrounds
        return json.dumps(values)


def with_article(words: str) -> str:
    """ "an orange dress"."""
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def thing(noun: str, color: str | None = None) -> str:
    """ "a red dress", or "a pair of red pants"."""
    words = noun if color is None else f"{color} {noun}"
    return f"a pair of {words}" if noun in PAIRS else with_article(words)


def third_person(verb: str) -> str:
    """ "pushes something"."""
    return f"{verb}{'es' if verb.endswith(('s', 'sh', 'ch')) else 's'} something"


def fill(templates: Iterable[str], **words: str | Sequence[str] | None) -> Iterator[str]:
    """The templates all of whose words are there; once for each where there are several of one word."""
    for template in templates:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        choices = [[value] if isinstance(value := words[name], str) else value or () for name in names]
        for chosen in product(*choices):
            yield template.format(**dict(zip(names, chosen, strict=True)))


def image_captions(
    templates: Iterable[str], noun: str, color: str | None, backgrounds: Sequence[str]
) -> tuple[str, ...]:
    """Every wording that is true of an image."""
    colored = None if color is None else thing(noun, color)
    ground = [f"{with_article(name)} background" for name in backgrounds]
    return tuple(fill(templates, thing=colored, plain=thing(noun), noun=noun, color=color, ground=ground))


def measure(path: Path, label: str) -> tuple[str | None, tuple[str, ...]]:
    """What is sure of an image's largest centred square: the colour, and the words for its background."""
    square = fit_square(read_image(path)[:, None], 64, "center_crop")[:, 0]
    found = measure_colors(square[None])[0]
    color: str | None = found.object.name
    if label not in COLORED or found.object.margin < SURE or color not in SAID.get(label, COLORS):
        color = None
    words = (
        found.background_tone if label in STANDING else None,
        found.background.name if label in STANDING and found.background.margin >= SURE_BACKGROUND else None,
    )
    return color, tuple(word for word in words if word)


def scenes(path: Path) -> dict[str, str]:
    """The rooms of videos, by name of the file, from the manifest beside the folders of classes; {} where none is."""
    manifest = path.resolve().parents[1] / "manifest.csv"
    if not manifest.is_file():
        return {}
    with manifest.open(encoding="utf-8", newline="") as file:
        return {Path(row["file"]).name: row["domain"].lower() for row in csv.DictReader(file) if row.get("domain")}


def describe_files(source: Path, wordings: str) -> Iterator[Row]:
    """A row per file, sorted by class and name."""
    images, videos = WORDINGS[wordings]
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        label, files = folder.name, list_media([folder])
        rooms = scenes(files[0]) if modality_of(files[0]) == "video" else {}
        for path in files:
            if modality_of(path) == "video":
                scene = with_article(rooms[path.name]) if path.name in rooms else None
                yield Row(path, label, None, (), tuple(fill(videos, does=third_person(label), verb=label, scene=scene)))
            else:
                color, backgrounds = measure(path, label)
                yield Row(path, label, color, backgrounds, image_captions(images, label, color, backgrounds))


def prompts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """The held-out wordings of these pairs of class and colour that name the colour and no background."""
    templates = [words for words in HELD_OUT if "{ground}" not in words and ("{thing}" in words or "{color}" in words)]
    return [text for label, color in sorted(pairs) for text in image_captions(templates, label, color, ())]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def statistics(rows: Sequence[Row]) -> str:
    """A table of how many images there are per class and colour."""
    counts = Counter((row.label, row.color) for row in rows)
    lines = ["| class | " + " | ".join(COLORS) + " | unsaid |", "|---" * (len(COLORS) + 2) + "|"]
    for label in sorted({row.label for row in rows}):
        lines.append(f"| {label} | " + " | ".join(str(counts[label, color]) for color in (*COLORS, None)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--wordings", choices=tuple(WORDINGS), default="train")
    parser.add_argument("--pairs", choices=("train", "held-out", "all"), default="train", help="of class and colour")
    parser.add_argument("--prompts", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--least", type=int, default=10, help="images of a pair that is asked for")
    parser.add_argument("--statistics", action="store_true", help="print how many images have which colour")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    rows = list(describe_files(arguments.source, arguments.wordings))
    if arguments.statistics:
        print(statistics(rows))
    chosen = [
        row
        for row in rows
        if arguments.pairs == "all" or ((row.label, row.color) in HELD_OUT_PAIRS) == (arguments.pairs == "held-out")
    ]
    write_lines(arguments.out, (row.line() for row in chosen))
    print(f"{len(chosen)} of {len(rows)} files -> {arguments.out}")
    if arguments.prompts is not None:
        seen = Counter((row.label, row.color) for row in rows if row.color is not None)
        common = [(label, str(color)) for (label, color), n in seen.items() if n >= arguments.least]
        write_lines(arguments.prompts / "held_wordings.txt", prompts(set(common) - HELD_OUT_PAIRS))
        write_lines(arguments.prompts / "held_pairs.txt", prompts(HELD_OUT_PAIRS))


if __name__ == "__main__":
    main()
