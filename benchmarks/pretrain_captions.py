"""The text encoder of a model of captions, trained on captions alone: no images, minutes of a core.

    python benchmarks/pretrain_captions.py MODEL -o PRETRAINED
    omnitok train tiny-text --init PRETRAINED --shards ...

A generator's loss says little about its text: most of what a code depends on is its neighbours. So the encoder's first
token, which cross-attention always sees, learns to tell the class, the colour and the background of captions that
`caption_images.py` words, with up to three words of random letters among them. MODEL is a masked model, whose other
weights are kept; its cross-attention begins anew. Told is how many of the wordings that are kept for evaluation are
understood, of all pairs of class and colour.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from caption_images import (
    COLORED,
    HELD_OUT,
    LONGEST,
    TRAIN_VIDEOS,
    compose,
    fill,
    image_captions,
    third_person,
    with_article,
)
from omnitok.hub.folder import load_generator_model, save_generator
from omnitok.metrics.colors import COLORS
from omnitok.models.conditions import TextCondition, encode_texts
from omnitok.models.masked_model import MaskedModel
from omnitok.training.transfer import start_from

IMAGES = (*COLORED, "carton", "leopard")
VIDEOS = ("close", "fold", "move", "open", "pick", "pour", "push", "put", "remove", "turn")
ROOMS = ("bathroom", "bedroom", "kitchen", "laundry room", "living room", "office")
NAMES = ((*IMAGES, *VIDEOS), (None, *COLORS), (None, "light", "dark", *COLORS))
"""What is told: class, colour, background."""
LETTERS = "aabcdeeefghiijklmnoopqrsttuvwxyz"


@dataclass(frozen=True)
class Caption:
    """A text, and what it says, a name of each of `NAMES`."""

    text: str
    says: tuple[str, str | None, str | None]


def draw_caption(draw: random.Random) -> Caption:
    """A caption of images, or one time in eight of videos."""
    color = ground = None
    if draw.random() < 0.125:
        noun = draw.choice(VIDEOS)
        room = draw.choice((None, with_article(draw.choice(ROOMS))))
        text = draw.choice(list(fill(TRAIN_VIDEOS, does=third_person(noun), verb=noun, scene=room)))
    else:
        noun = draw.choice(IMAGES)
        color = draw.choice(COLORS) if draw.random() < 0.8 else None
        text, ground = compose(draw, noun, color, [name for name in NAMES[2] if name])
    words = text.split(" ")
    for _ in range(draw.choice((0, 0, 1, 1, 2, 3))):
        word = "".join(draw.choices(LETTERS, k=draw.randint(2, 8)))
        words.insert(draw.choice((0, len(words), draw.randint(0, len(words)))), word)
    text = " ".join(words)
    return Caption(text, (noun, color, ground)) if len(text) <= LONGEST else draw_caption(draw)


def held_out() -> list[Caption]:
    """The wordings that are kept for evaluation, of every pair of class and colour."""
    wordings = [words for words in HELD_OUT if "{thing}" in words or "{color}" in words]
    return [
        Caption(text, (noun, color, None))
        for noun, color in product(COLORED, COLORS)
        for text in image_captions(wordings, noun, color, ())
    ]


def understood(encoder: nn.Module, heads: Sequence[nn.Module], captions: Sequence[Caption]) -> list[float]:
    """Shares of captions whose class and colour are told."""
    with torch.inference_mode():
        first = encoder(encode_texts([each.text for each in captions], LONGEST))[0][:, 0]
        told = [head(first).argmax(1).tolist() for head in heads[:2]]
    right = [
        [names[i] == each.says[k] for i, each in zip(told[k], captions, strict=True)]
        for k, names in enumerate(NAMES[:2])
    ]
    return [round(sum(each) / len(each), 3) for each in right]


def main() -> None:
    """Train, and write a model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    draw = random.Random(0)

    source = load_generator_model(arguments.model)
    old = source.model
    assert isinstance(old, MaskedModel)
    plain = MaskedModel(replace(old.config, condition=None))
    plain.load_state_dict({name: weight for name, weight in old.state_dict().items() if name in plain.state_dict()})
    config = replace(old.config, num_classes=0, condition=TextCondition(max_length=LONGEST))
    model = MaskedModel(config)
    start_from(model, replace(source, model=plain), ())
    encoder = model.encode_condition
    assert encoder is not None
    heads = nn.ModuleList(nn.Linear(config.width, len(names)) for names in NAMES)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.lr, total_steps=arguments.steps, pct_start=0.08)
    for step in range(1, arguments.steps + 1):
        captions = [draw_caption(draw) for _ in range(arguments.batch)]
        first = encoder(encode_texts([each.text for each in captions], LONGEST))[0][:, 0]
        loss = first.new_zeros(())
        for number, (head, names) in enumerate(zip(heads, NAMES, strict=True)):
            loss = loss + F.cross_entropy(
                head(first), torch.tensor([names.index(each.says[number]) for each in captions])
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == arguments.steps:
            shares = understood(encoder, list(heads), held_out())
            print(
                f"step {step}: loss {loss.item():.3f}, held-out wordings: class {shares[0]}, colour {shares[1]}",
                flush=True,
            )
    save_generator(model, replace(source.settings, classes=()), arguments.out)


if __name__ == "__main__":
    main()
