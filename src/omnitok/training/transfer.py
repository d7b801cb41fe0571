"""Starting from a trained model.

A tokenizer: image -> joint (inflation), another bottleneck, deeper. A generator: other data and maybe other classes.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from omnitok.data.loader import PixelDataset
from omnitok.errors import OmnitokError
from omnitok.hub.architectures import Generator
from omnitok.hub.folder import TrainedGenerator, load_generator_model
from omnitok.models.bottlenecks import BottleneckConfig, build_bottleneck
from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig, SequenceConfig
from omnitok.models.conditions import ConditionConfig
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.models.transformer import Block
from omnitok.training.config import AnyGeneratorConfig, TrainConfig, learns_classes

_MAY_BEGIN = re.compile(r"^encode_condition\.|\.cross\.|^patches\.")

_DEPTHS = ("encoder_blocks", "encoder_temporal_blocks", "decoder_blocks", "decoder_temporal_blocks")


@torch.no_grad()
def inflate_video_patches(tokenizer: OmniTokenizer) -> None:
    """Start the video patch embedding and output from the image ones, in place.

    A video patch is laid out (c s p q). Each of its s frames gets the image embedding's weight / s, so that a still
    video is embedded as the image; the affine norm over the patch repeats its gain and bias for every frame (it is
    applied pixel by pixel, so there is nothing to divide); each of the s output frames gets the weights of the
    image's.
    """
    c, s = tokenizer.channels, tokenizer.config.temporal_patch_size
    for image, video in zip(tokenizer.encoder.embed_image, tokenizer.encoder.embed_video, strict=True):
        if isinstance(image, nn.Linear):
            weights = {"weight": _repeat_frames(image.weight, c, s, dim=1) / s, "bias": image.bias}
        elif image.state_dict()["weight"].shape == video.state_dict()["weight"].shape:  # the norm over the features
            weights = image.state_dict()
        else:  # the norm over the patch
            weights = {name: _repeat_frames(value, c, s, dim=0) for name, value in image.state_dict().items()}
        video.load_state_dict(weights)
    to_image, to_video = tokenizer.decoder.to_image, tokenizer.decoder.to_video
    to_video.weight.copy_(_repeat_frames(to_image.weight, c, s, dim=0))
    to_video.bias.copy_(_repeat_frames(to_image.bias, c, s, dim=0))


@torch.no_grad()
def expand_depth(tokenizer: OmniTokenizer, target: TokenizerConfig) -> OmniTokenizer:
    """A tokenizer with as many blocks as `target` says that computes what `tokenizer` does.

    Further blocks follow the last one of each stack as copies of it whose outputs are zero, so that training starts
    from the same function (function-preserving growth: Net2Net, Chen et al., 2016, arXiv 1511.05641).

    Raises:
        OmnitokError: a stack of `target` is not one of `tokenizer` with further blocks of the kind that it ends with.
    """
    old = tokenizer.config
    for name in ("encoder_blocks", "decoder_blocks"):
        have, wanted = getattr(old, name), getattr(target, name)
        if wanted != have + have[-1:] * (len(wanted) - len(have)):
            accepted = f"{have!r} and more blocks {have[-1]!r}" if have else "no block"
            raise OmnitokError(f"model.{name} must be {accepted} to grow this model, found {wanted!r}")
    for name in ("encoder_temporal_blocks", "decoder_temporal_blocks"):
        have, wanted = getattr(old, name), getattr(target, name)
        if wanted < have or (have == 0 and wanted > 0):
            accepted = f"{have} or more" if have else "0"
            raise OmnitokError(f"model.{name} must be {accepted} to grow this model, found {wanted}")
    depths = {name: getattr(target, name) for name in _DEPTHS}
    grown = OmniTokenizer.from_config(dataclasses.replace(old, **depths, block_limits=None))  # of other blocks
    grown = grown.to(tokenizer.device)
    grown.load_state_dict(tokenizer.state_dict(), strict=False)  # lacks the further blocks alone
    for stack in ("encoder.spatial", "encoder.temporal", "decoder.temporal", "decoder.spatial"):
        small, large = (list(model.get_submodule(f"{stack}.blocks").children()) for model in (tokenizer, grown))
        for block in large[len(small) :]:
            assert isinstance(block, Block)
            block.load_state_dict(small[-1].state_dict())
            for module in (*block.outputs, block.positional_convolution):
                for parameter in () if module is None else module.parameters():
                    nn.init.zeros_(parameter)
    return grown


def _repeat_frames(x: torch.Tensor, channels: int, s: int, dim: int) -> torch.Tensor:
    """Dimension `dim` from (c p q) to (c s p q)."""
    return x.unflatten(dim, (channels, -1)).repeat_interleave(s, dim=dim).flatten(dim, dim + 1)


@torch.no_grad()
def convert_channels(tokenizer: OmniTokenizer, channels: int) -> OmniTokenizer:
    """A tokenizer of pixels of `channels` channels that begins with what `tokenizer` knows.

    More channels: the first ones are embedded and given back as before; the others have no part in the embedding at
    first (zero weights, which learn), and come out as the mean of the old ones. One channel: an image of it is embedded
    as the image that has it in each of the old channels, and comes out as their mean. Where patches are normalised,
    their norm spans the channels, so that other channels do change what it gives.

    Raises:
        OmnitokError: neither more channels nor one.
    """
    old = tokenizer.channels
    if channels < old and channels != 1:
        raise OmnitokError(f"model.channels must be 1, or {old} or more, to start from this model, found {channels}")
    converted = OmniTokenizer.from_config(dataclasses.replace(tokenizer.config, channels=channels))
    converted = converted.to(tokenizer.device)
    own, given = converted.state_dict(), tokenizer.state_dict()
    for name, tensor in own.items():
        source = given[name]
        if source.shape == tensor.shape:
            tensor.copy_(source)
            continue
        dim = next(d for d in range(tensor.ndim) if tensor.shape[d] != source.shape[d])
        parts = source.unflatten(dim, (old, -1))
        mean = parts.mean(dim, keepdim=True)
        is_input = name.startswith("encoder.") and tensor.ndim == 2
        if channels == 1:
            parts = mean * old if is_input else mean
        else:
            others = torch.zeros_like(mean) if is_input else mean
            parts = torch.cat([parts, *[others] * (channels - old)], dim=dim)
        tensor.copy_(parts.flatten(dim, dim + 1))
    return converted


@torch.no_grad()
def swap_bottleneck(
    tokenizer: OmniTokenizer, target: BottleneckConfig, pixels: torch.Tensor | None = None
) -> OmniTokenizer:
    """A tokenizer with the encoder and decoder of `tokenizer` and the bottleneck that `target` describes.

    The projections carry over where the number of latent channels is the same: the mean's from and to the quantizer's.
    A quantizer projects onto the unit sphere, a Gaussian does not; with `pixels` (b, 3, H, W) the mean's projection is
    scaled so that the means of these images have length 1 on average, which is what the decoder is used to.
    """
    old = tokenizer.bottleneck
    new = build_bottleneck(tokenizer.config.width, target)
    new.take_projections(old)
    swapped = OmniTokenizer(tokenizer.encoder, new.to(tokenizer.device), tokenizer.decoder)
    same_channels = old.latent_channels == new.latent_channels
    if pixels is not None and same_channels and tokenizer.is_discrete > swapped.is_discrete:
        length = swapped.encode(pixels, check_range=False).latents.norm(dim=1).mean()
        new.project_in.weight[: new.latent_channels].div_(length)
        new.project_in.bias[: new.latent_channels].div_(length)
    return swapped


def tokens_of(tokenizer: OmniTokenizer) -> tuple[str, ...]:
    """Fingerprints of the tokenizers whose tokens those of `tokenizer` are, its own first."""
    return fingerprint(tokenizer), *tokenizer.compatible_tokenizers


def load_kept(name: str, tokenizer: OmniTokenizer) -> OmniTokenizer:
    """The tokenizer whose codes `tokenizer` keeps (`init.keep_codes`).

    Raises:
        OmnitokError: there is none of that name, or it has other codes.
    """
    kept = OmniTokenizer.from_pretrained(name)
    found, wanted = (
        f"the bottleneck {x.config.bottleneck.type!r} of {x.vocab_size} codes and {x.channels} channels"
        for x in (kept, tokenizer)
    )
    if found != wanted:
        raise OmnitokError(f"init.keep_codes: {name} has {found}, and what is trained {wanted}")
    return kept


def initial_tokenizer(
    config: TrainConfig, dataset: PixelDataset | None = None, start: OmniTokenizer | None = None
) -> OmniTokenizer:
    """The weights that the run starts from: `config.init.model` with other channels, inflated, deeper, its bottleneck
    swapped.

    Args:
        dataset: its first images scale the latents where a quantizer is swapped for a Gaussian.
        start: `config.init.model`, where it is loaded already.

    Raises:
        OmnitokError: it cannot become that.
    """
    assert config.init.model is not None
    tokenizer = start or OmniTokenizer.from_pretrained(config.init.model)
    compatible = tokens_of(tokenizer) if config.init.freeze_encoder else ()
    trained_on = tokenizer.trained_on
    if config.model.channels != tokenizer.channels:
        if config.init.freeze_encoder:
            raise OmnitokError(
                f"init.freeze_encoder keeps the {tokenizer.channels} channels of {config.init.model}, and "
                f"model.channels is {config.model.channels}"
            )
        tokenizer = convert_channels(tokenizer, config.model.channels)
    if config.init.inflate:
        inflate_video_patches(tokenizer)
    if config.init.expand_depth:
        tokenizer = expand_depth(tokenizer, config.model)
    now, wanted = tokenizer.config.bottleneck, config.model.bottleneck
    if now.type != wanted.type:
        if config.init.freeze_encoder:
            raise OmnitokError(
                f"init.freeze_encoder keeps the bottleneck {now.type!r} of {config.init.model}, and "
                f"model.bottleneck is {wanted.type!r}"
            )
        tokenizer = swap_bottleneck(tokenizer, wanted, None if dataset is None else dataset.whole()[0].inputs)
    elif not config.init.freeze_encoder:
        learning = {name: getattr(wanted, name) for name in wanted.learning}
        tokenizer.configure_bottleneck(dataclasses.replace(now, **learning))
    tokenizer.compatible_tokenizers, tokenizer.trained_on = compatible, trained_on
    return tokenizer


# ---------------------------------------------------------------------------------------------------------- generators


def load_source(name: str) -> TrainedGenerator:
    """The trained generator that a run starts from.

    Raises:
        OmnitokError: there is none of that name, or its latents were not normalised per channel.
    """
    source = load_generator_model(name)
    if source.settings.latent_scale is not None:
        raise OmnitokError(
            f"init: {name} knows latents times {source.settings.latent_scale}, and training normalises them by the "
            "tokenizer's latent_mean and latent_std"
        )
    return source


def with_architecture(config: AnyGeneratorConfig, source: TrainedGenerator) -> AnyGeneratorConfig:
    """`config` with the architecture of `source`, but for its dropout and for what the data say: classes and grid.

    Raises:
        OmnitokError: `source` is of another kind than `config` trains, or classes are to be learnt by a language model
            that has no place for them.
    """
    own: Any = config.model
    found: Any = source.model.config
    if type(own) is not type(found) and not (
        isinstance(own, MaskedModelConfig) and isinstance(found, LanguageModelConfig)  # whose blocks are the same
    ):
        raise OmnitokError(
            f"init: {config.init} is a {type(source.model).__name__}, which {config.name} does not train"
        )
    if isinstance(own, LanguageModelConfig) and learns_classes(config) and not found.has_class:
        raise OmnitokError(
            f"init: {config.init} knows no classes; train it with --set class_conditional=false, or without --init"
        )
    if isinstance(own, MaskedModelConfig) and not found.is_rotary:
        raise OmnitokError(f"init: {config.init} has learned positions, and a masked model needs rotary ones")
    names, others = ({field.name for field in dataclasses.fields(each)} for each in (own, found))
    known = {name: getattr(found, name) for name in (names & others) - {"num_classes", "dropout"}}
    known["condition"] = _condition(own.condition, found.condition)
    if isinstance(own, MaskedModelConfig):
        known["patch"] = max(own.patch, known.get("patch", 1))  # a model of single codes may go on with patches
    return dataclasses.replace(config, model=dataclasses.replace(own, **known))


def _condition(wanted: ConditionConfig | None, found: ConditionConfig | None) -> ConditionConfig | None:
    """The condition that is asked for, with the architecture of the source's where that is of its kind."""
    return found if wanted is not None and type(wanted) is type(found) else wanted


@torch.no_grad()
def start_from(model: Generator, source: TrainedGenerator, classes: Sequence[str]) -> tuple[str, ...]:
    """Give `model` the weights of `source`; classes are found by their names, or by their numbers where there are none.

    Args:
        classes: names of the classes of `model`, in the order of its labels.

    Returns:
        The names of the classes that `source` does not know, whose embeddings stay as they are.

    Raises:
        OmnitokError: weights of other shapes: another codebook, other channels, another table of positions.
    """
    own, given = model.state_dict(), source.model.state_dict()
    rows = _matching_rows(model, source, classes)
    for name, tensor in own.items():
        found = given.get(name)
        if found is None and (name in rows or _MAY_BEGIN.search(name)):
            continue  # the first classes, condition or patches that it learns
        if name in rows and found is not None and found.shape[1:] == tensor.shape[1:]:
            here, there = (list(part) for part in zip(*rows[name], strict=True))
            tensor[here] = found[there].to(tensor)
        elif found is None or found.shape != tensor.shape:
            shape = "no such weight" if found is None else f"the shape {tuple(found.shape)}"
            raise OmnitokError(f"init: {name} should have the shape {tuple(tensor.shape)}, found {shape}")
        else:
            tensor.copy_(found)
    known = set(source.settings.classes)
    return tuple(name for name in classes if name not in known) if known else ()


def _matching_rows(
    model: Generator, source: TrainedGenerator, classes: Sequence[str]
) -> Mapping[str, list[tuple[int, int]]]:
    """Weights with a row a class -> pairs of rows (of `model`, of `source`) that mean the same."""
    here, there = model.config, source.model.config
    names = source.settings.classes
    if classes and names:
        pairs = [(i, names.index(name)) for i, name in enumerate(classes) if name in names]
    else:
        pairs = [(i, i) for i in range(min(here.num_classes, there.num_classes))]
    if isinstance(here, SequenceConfig) and isinstance(there, SequenceConfig):
        if here.factors != there.factors:
            knows, have = (" x ".join(map(str, config.factors)) for config in (there, here))
            raise OmnitokError(f"init: the model knows {knows} codes, and the tokens have {have}")
        embedded = [(i + here.class_offset, j + there.class_offset) for i, j in pairs]
        embedded += [(i, i) for i in range(min(here.class_offset, there.class_offset))]
        if here.null_id is not None and there.null_id is not None:
            embedded.append((here.null_id, there.null_id))
        predicted = list(embedded) if type(here) is type(there) is LanguageModelConfig else []
        for rows, here_first, there_first in (
            (embedded, here.code_offset, there.code_offset),
            (predicted, here.head_offset, there.head_offset),
        ):
            rows += [(here_first + i, there_first + i) for i in range(sum(here.factors))]
        if isinstance(here, MaskedModelConfig) and isinstance(there, MaskedModelConfig):
            embedded.append((here.mask_id, there.mask_id))
        return {"token_embedding.weight": embedded, "head.weight": predicted}
    pairs.append((here.num_classes, there.num_classes))  # the null label
    return {"embed_label.weight": pairs}
