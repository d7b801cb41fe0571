"""Model cards: the README.md that is written beside a model."""

from omnitok.hub.architectures import Generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.header import KINDS
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.tokenizer import OmniTokenizer


def tokenizer_card(tokenizer: OmniTokenizer, name: str) -> str:
    """The card of a tokenizer of that name."""
    config = tokenizer.config
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    if tokenizer.is_discrete:
        bottleneck = f"{config.bottleneck.type}, {tokenizer.vocab_size} codes of {tokenizer.latent_channels} channels"
    else:
        bottleneck = f"{config.bottleneck.type}, {tokenizer.latent_channels} latent channels"
    return f"""---
library_name: omnitok
---
# {name}

A joint image-video tokenizer ({parameters / 1e6:.1f} M parameters, {bottleneck}).

| | |
|---|---|
| patch | {config.patch_size} x {config.patch_size} pixels, {config.temporal_patch_size} frames |
| width | {config.width} ({config.heads} heads of {config.head_dim}) |
| encoder | spatial {config.encoder_blocks!r}, {config.encoder_temporal_blocks} temporal blocks |
| decoder | {config.decoder_temporal_blocks} temporal blocks, spatial {config.decoder_blocks!r} |
| bottleneck | {bottleneck} |

```python
from omnitok import OmniTokenizer

tokenizer = OmniTokenizer.from_pretrained("path/to/this/folder")
```

Training data, recipe, licence and figures are not written down yet: whoever publishes this model adds them here.
"""


def generator_card(model: Generator, settings: GeneratorSettings, name: str) -> str:
    """The card of a generator of that name."""
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    kind = "diffusion transformer" if isinstance(model, DiffusionTransformer) else KINDS[type(model).__name__]
    media = "images" if settings.num_frames == 1 else f"images and videos of up to {settings.num_frames} frames"
    classes = ", ".join(settings.classes[:20]) + (" …" if len(settings.classes) > 20 else "")
    sampling = ", ".join(f"{key} {value}" for key, value in settings.sampling.chosen().items())
    return f"""---
library_name: omnitok
---
# {name}

A {kind} ({parameters:.1f} M parameters) that generates {media} of {settings.height} x {settings.width} pixels.

| | |
|---|---|
| width | {config.width} ({config.depth} blocks, {config.heads} heads) |
| tokenizer | {settings.tokenizer} (weights {settings.tokenizer_sha256 or "unknown"}) |
| classes | {config.num_classes or "none"}{f": {classes}" if classes else ""} |
| sampling | {sampling or "as the defaults"} |

```python
import omnitok

generator = omnitok.load_generator("path/to/this/folder")
```

Training data, recipe, licence and figures are not written down yet: whoever publishes this model adds them here.
"""
