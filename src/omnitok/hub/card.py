"""Model cards: the README.md that is written beside a model, whose metadata the hub and its search read."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from omnitok.data.embeddings import AUDIO, TEXT
from omnitok.data.pixel_format import format_ranges
from omnitok.hub.architectures import Generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.header import KINDS, PEER, TOKENIZER, split_card
from omnitok.models.conditions import EmbeddingCondition, TextCondition
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.tokenizer import OmniTokenizer

LICENSE = "apache-2.0"
"""Of omnitok, and of the models whose cards it writes until somebody says otherwise."""

PLACE = "path/to/this/folder"
"""What a card gives to be loaded, until the model is published."""

_TEXT = "a red dress"
"""What the Python lines of a card ask models of texts for."""

_WITHOUT = (
    "Training data, recipe and figures are not written down yet: whoever publishes this model adds them here, and "
    "changes the licence above where the training data ask for another."
)


def card_metadata(fields: Mapping[str, Any]) -> dict[str, object]:
    """What the hub is told of a model: the metadata of its card, but for the licence.

    Args:
        fields: of its `config.json`.
    """
    architecture, bottleneck = fields["architecture"], fields.get("bottleneck", "vq")
    if architecture in (TOKENIZER, PEER):
        kind = bottleneck.get("type") if isinstance(bottleneck, Mapping) else bottleneck
        tags = [
            "image-tokenizer",
            "video-tokenizer",
            *(["vae" if kind == "kl" else str(kind)] * (architecture != PEER)),
        ]
        return {"library_name": "omnitok", "pipeline_tag": "image-to-image", "tags": tags}
    settings = fields["settings"]
    makes_videos = settings.get("num_frames", 1) > 1
    tags = ["image-generation", *(["video-generation"] * makes_videos), KINDS[architecture].replace(" ", "-")]
    condition = (fields.get("condition") or {}).get("type")
    takes_text = condition == "text" or settings.get("embeddings", "").startswith(TEXT)
    if takes_text:
        tags += ["text-to-video"] * makes_videos
    elif condition or fields.get("num_classes"):
        tags.append("embedding-conditional" if condition else "class-conditional")  # the hub has no task of these
    task = "text-to-image" if takes_text else "unconditional-image-generation"
    return {"library_name": "omnitok", "pipeline_tag": task, "tags": tags}


def with_metadata(card: str, metadata: Mapping[str, object]) -> str:
    """The card with those of the fields that its own metadata lack.

    Raises:
        ValueError: its metadata are no YAML mapping.
    """
    block, text = split_card(card)
    try:
        known = yaml.safe_load(block) or {}
    except yaml.YAMLError as error:
        raise ValueError("its metadata are no YAML") from error
    if not isinstance(known, dict):
        raise ValueError("its metadata are no YAML mapping")
    lacking = {name: value for name, value in metadata.items() if name not in known}
    added = yaml.safe_dump(lacking, sort_keys=False) if lacking else ""
    return f"---\n{block}{added}---\n{text}"


def tokenizer_card(tokenizer: OmniTokenizer, name: str) -> str:
    """The card of a tokenizer of that name."""
    config = tokenizer.config
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    if tokenizer.is_discrete:
        bottleneck = f"{config.bottleneck.type}, {tokenizer.vocab_size} codes of {tokenizer.latent_channels} channels"
    else:
        bottleneck = f"{config.bottleneck.type}, {tokenizer.latent_channels} latent channels"
    return f"""---
license: {LICENSE}
---
# {name}

A joint image-video tokenizer ({parameters / 1e6:.1f} M parameters, {bottleneck}).

| | |
|---|---|
| pixels | {_pixels(tokenizer)} |
| patch | {config.patch_size} x {config.patch_size} pixels, {config.temporal_patch_size} frames |
| width | {config.width} ({config.heads} heads of {config.head_dim}) |
| encoder | spatial {config.encoder_blocks!r}, {config.encoder_temporal_blocks} temporal blocks |
| decoder | {config.decoder_temporal_blocks} temporal blocks, spatial {config.decoder_blocks!r} |
| bottleneck | {bottleneck} |

```python
from omnitok import OmniTokenizer

tokenizer = OmniTokenizer.from_pretrained("{PLACE}")
```

{_WITHOUT}
"""


def _pixels(tokenizer: OmniTokenizer) -> str:
    """Channels, and which values of files they are."""
    names = {1: "grey", 3: "red, green, blue", 4: "red, green, blue, alpha"}.get(tokenizer.channels, "")
    text = f"{tokenizer.channels} channel{'s' * (tokenizer.channels > 1)}{f' ({names})' if names else ''}"
    if not tokenizer.channel_ranges:
        return text
    return f"{text}; of .npy, TIFF and 16-bit files the values {format_ranges(tokenizer.channel_ranges)} are -1 and 1"


def generator_card(model: Generator, settings: GeneratorSettings, name: str) -> str:
    """The card of a generator of that name."""
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    kind = "diffusion transformer" if isinstance(model, DiffusionTransformer) else KINDS[type(model).__name__]
    media = "images" if settings.num_frames == 1 else f"images and videos of up to {settings.num_frames} frames"
    sampling = ", ".join(f"{key} {value}" for key, value in settings.sampling.chosen().items())
    condition, origin, given, yours = _condition(model, settings)
    size = f"{settings.height}, {settings.width}) in [-1, 1]"
    calls = f"{yours}images = generator.sample({given}seed=1)  # (b, channels, {size}"
    if settings.num_frames > 1:
        frames = settings.num_frames
        calls += f"\nvideos = generator.sample({given}num_frames={frames})  # (b, channels, {frames}, {size}"
    imports = "import torch\n\nimport omnitok\n" if yours else "import omnitok\n"
    return f"""---
license: {LICENSE}
---
# {name}

A {kind} ({parameters:.1f} M parameters) that generates {media} of {settings.height} x {settings.width} pixels{origin}.

| | |
|---|---|
| width | {config.width} ({config.depth} blocks, {config.heads} heads) |
| tokenizer | {settings.tokenizer} (weights {settings.tokenizer_sha256 or "unknown"}) |
| condition | {condition} |
| sampling | {sampling or "as the defaults"} |

```python
{imports}
generator = omnitok.load_generator("{PLACE}")
{calls}
```

{_WITHOUT}
"""


def _condition(model: Generator, settings: GeneratorSettings) -> tuple[str, str, str, str]:
    """What a generator is conditioned on, in words and as the end of a sentence; the beginning of what its `sample` is
    given, as Python, and the lines that make it."""
    match model.config.condition:
        case TextCondition(max_length=longest):
            return f"a text of at most {longest} bytes", " from texts", f'["{_TEXT[:longest]}"], ', ""
        case EmbeddingCondition(channels=width, max_length=longest):
            numbers = f"at most {longest} of {width} numbers"
            if settings.embeddings.startswith(TEXT):
                encoder = settings.embeddings.removeprefix(TEXT)
                return f"a text, as embeddings by {encoder}: {numbers}", " from texts", f'["{_TEXT}"], ', ""
            kind, origin = "embeddings", " from embeddings"
            if settings.embeddings == AUDIO:
                kind, origin = "a sound, as `omnitok generate --embeddings` reads it", " from sounds"
            yours = f"embeddings = torch.zeros({longest}, {width})  # in place of yours\n"
            return f"{kind}: {numbers}", origin, "[embeddings], ", yours
    if not model.config.num_classes:
        return "none", "", "", ""
    names = ", ".join(settings.classes[:20]) + (" …" if len(settings.classes) > 20 else "")
    some = json.dumps([*(settings.classes or range(model.config.num_classes))][:2], ensure_ascii=False)
    return f"{model.config.num_classes} classes{f': {names}' if names else ''}", " from classes", f"{some}, ", ""
