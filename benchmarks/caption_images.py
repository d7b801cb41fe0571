"""Captions for folders of classes, from the class and from measured colours: "a red dress on a light background".

    python benchmarks/caption_images.py IMAGES -o train.jsonl --statistics
    python benchmarks/caption_images.py IMAGES -o held.jsonl --wordings held-out --pairs all
    python benchmarks/caption_images.py IMAGES -o pairs.jsonl --wordings held-out --pairs held-out
    python benchmarks/caption_images.py IMAGES -o train.jsonl --prompts prompts

SOURCE holds a folder a class, of images or of videos. Each line of the list has `path`, `label` and `caption` (every
wording that is true of the file), and `color` and `background` where they were measured surely enough to be said. The
same files give the same list; nothing is drawn at random. This is a script and no part of the library, because the
nouns, the classes whose colour means something and the held-out pairs belong to one data set.

A colour is said where its measurement is sure, and with `--through TOKENIZER` only where the image that this model
gives back has it too: a generator learns from codes, and a fifth of the colours do not survive them.

What is kept for evaluation: the wordings of `HELD_OUT` are in no list for training (`--wordings train`; `many`, three
times as many; or `composed`, of each file another choice of some thousands), and neither are the images of the pairs of
class and colour in `HELD_OUT_PAIRS`. Their images are left out rather than captioned without the colour: a model that
had seen blue dresses, under whatever words, would draw some of them unasked.

`--prompts FOLDER` writes what to ask of a trained model: `held_wordings.txt` (pairs with at least `--least` images) and
`held_pairs.txt`, a prompt a line.
"""

import argparse
import csv
import json
import random
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from omnitok import OmniTokenizer
from omnitok.atomic import atomic_path
from omnitok.data import list_media, read_image
from omnitok.data.modality import modality_of
from omnitok.data.transforms import fit_square
from omnitok.metrics.colors import COLORS, ImageColors, measure_colors

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

CARRIERS = (
    *("{}", "{}", "{}", "{}", "{}.", "this is {}", "here is {}", "there is {}", "we see {}", "i want {}", "i see {}"),
    *("draw {}", "show me {}", "paint {}", "make {}", "please make {}", "give me {}", "generate {}", "find {}"),
    *("a photo of {}", "a photograph of {}", "photo of {}", "a picture of {}", "an image of {}", "a shot of {}"),
    *("a small photo of {}", "a good picture of {}", "an old photo of {}", "a close view of {}", "the image of {}"),
    *("a picture with {}", "an image with {} in it", "a photo where there is {}", "a photo that has {} in it"),
    *("an image in which we see {}", "a picture that contains {}", "a photo that depicts {}", "a snapshot showing {}"),
    *("one can see {} here", "{} in a photo", "{}, as seen in a shop", "it is {}", "what you see is {}", "just {}"),
)
"""Around a phrase: words that say nothing about what is seen, or next to nothing."""
PLAIN = ("{plain}", "{plain}", "{noun}", "the {noun}", "some {noun}")
COLORFUL = (
    *("{thing}", "{thing}", "{thing}", "{thing}", "{color} {noun}", "the {color} {noun}", "{noun}, {color}"),
    *("{plain} in {color}", "{plain}, which is {color}", "{plain} that is {color}", "{plain} of {color} colour"),
    *("{plain} with a {color} colour", "{plain} (colour: {color})", "{plain} coloured {color}", "{color}: {plain}"),
    *("{plain} painted {color}", "{plain} and its colour is {color}", "{plain}, the colour is {color}"),
)
GROUNDED = (
    *("{} on {ground}", "{} on {ground}", "{}, {ground}", "{} in front of {ground}", "{} against {ground}"),
    *("on {ground}, {}", "{ground} and {}", "{ground} with {}", "{} and {ground}"),
)

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

COMPOSED = "composed"
WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # of images, of videos
    "train": (TRAIN, TRAIN_VIDEOS),
    "many": (MANY, TRAIN_VIDEOS),
    COMPOSED: ((), TRAIN_VIDEOS),  # images have wordings of their own
    "held-out": (HELD_OUT, HELD_OUT_VIDEOS),
}
CHOSEN = 48  # composed captions of a file
LONGEST = 96  # bytes that a text condition of the recipe reads


@dataclass(frozen=True)
class Row:
    """A line of the list."""

    path: Path
    label: str
    color: str | None
    backgrounds: tuple[str, ...]
    captions: tuple[str, ...]
    held_out: bool = False

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


def compose(draw: random.Random, noun: str, color: str | None, backgrounds: Sequence[str]) -> tuple[str, str | None]:
    """A wording of the class, of the colour if there is one, and one time in four of a background, told too."""
    template = draw.choice(PLAIN if color is None else COLORFUL)
    text = template.format(thing=thing(noun, color), plain=thing(noun), noun=noun, color=color)
    ground = None
    if backgrounds and draw.random() < 0.25:
        ground = draw.choice(backgrounds)
        text = draw.choice(GROUNDED).format(text, ground=f"{with_article(ground)} background")
    return draw.choice(CARRIERS).format(text), ground


def composed_captions(noun: str, color: str | None, backgrounds: Sequence[str], seed: str) -> tuple[str, ...]:
    """Some wordings that are true of an image, by a seed; four of five say its colour."""
    draw = random.Random(seed)
    chosen: set[str] = set()
    for _ in range(10 * CHOSEN):
        said = color if color is not None and draw.random() < 0.8 else None
        text, _ground = compose(draw, noun, said, backgrounds)
        if len(text) <= LONGEST and len(chosen) < CHOSEN:
            chosen.add(text)
    return tuple(sorted(chosen))


def measure(path: Path, label: str) -> tuple[str | None, tuple[str, ...]]:
    """What is sure of an image's largest centred square: the colour, and the words for its background."""
    found = measure_colors(read_square(path)[None])[0]
    words = (
        found.background_tone if label in STANDING else None,
        found.background.name if label in STANDING and found.background.margin >= SURE_BACKGROUND else None,
    )
    return sure_color(found, label), tuple(word for word in words if word)


def read_square(path: Path, size: int = 64) -> Tensor:
    """(3, size, size)."""
    return fit_square(read_image(path)[:, None], size, "center_crop")[:, 0]


def sure_color(found: ImageColors, label: str) -> str | None:
    """The colour of the object, if it may be said."""
    color = found.object.name
    said = label in COLORED and found.object.margin >= SURE and color in SAID.get(label, COLORS)
    return color if said else None


def survives(path: Path, label: str, color: str, tokenizer: OmniTokenizer) -> bool:
    """Whether the image has this colour after the tokenizer too."""
    return sure_color(measure_colors(through(read_square(path), tokenizer))[0], label) == color


@torch.inference_mode()
def through(image: Tensor, tokenizer: OmniTokenizer) -> Tensor:
    """(3, H, W) → what the tokenizer gives back, (1, 3, H, W)."""
    codes = tokenizer.encode(image[None], check_range=False).codes
    assert codes is not None
    return tokenizer.decode_codes(codes)


def scenes(path: Path) -> dict[str, str]:
    """The rooms of videos, by name of the file, from the manifest beside the folders of classes; {} where none is."""
    manifest = path.resolve().parents[1] / "manifest.csv"
    if not manifest.is_file():
        return {}
    with manifest.open(encoding="utf-8", newline="") as file:
        return {Path(row["file"]).name: row["domain"].lower() for row in csv.DictReader(file) if row.get("domain")}


def describe_files(source: Path, wordings: str, tokenizer: OmniTokenizer | None = None) -> Iterator[Row]:
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
                held_out = (label, color) in HELD_OUT_PAIRS
                if color is not None and tokenizer is not None and not survives(path, label, color, tokenizer):
                    color = None
                if wordings == COMPOSED:
                    captions = composed_captions(label, color, backgrounds, f"{label}/{path.name}")
                else:
                    captions = image_captions(images, label, color, backgrounds)
                yield Row(path, label, color, backgrounds, captions, held_out)


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
    parser.add_argument("--wordings", choices=WORDINGS, default="train")
    parser.add_argument("--pairs", choices=("train", "held-out", "all"), default="train", help="of class and colour")
    parser.add_argument("--through", default=None, metavar="TOKENIZER", help="that colours have to survive")
    parser.add_argument("--prompts", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--least", type=int, default=10, help="images of a pair that is asked for")
    parser.add_argument("--statistics", action="store_true", help="print how many images have which colour")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    tokenizer = None if arguments.through is None else OmniTokenizer.from_pretrained(arguments.through)
    rows = list(describe_files(arguments.source, arguments.wordings, tokenizer))
    if arguments.statistics:
        print(statistics(rows))
    chosen = [row for row in rows if arguments.pairs == "all" or row.held_out == (arguments.pairs == "held-out")]
    write_lines(arguments.out, (row.line() for row in chosen))
    print(f"{len(chosen)} of {len(rows)} files -> {arguments.out}")
    if arguments.prompts is not None:
        seen = Counter((row.label, row.color) for row in rows if row.color is not None)
        common = [(label, str(color)) for (label, color), n in seen.items() if n >= arguments.least]
        write_lines(arguments.prompts / "held_wordings.txt", prompts(set(common) - HELD_OUT_PAIRS))
        write_lines(arguments.prompts / "held_pairs.txt", prompts(HELD_OUT_PAIRS))


if __name__ == "__main__":
    main()
