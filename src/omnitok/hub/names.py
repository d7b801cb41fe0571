"""Models by name: which there are, where their files lie, what their headers say; nothing here imports torch."""

import difflib
import functools
import math
import os
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from omnitok.atomic import sha256_of
from omnitok.checked import AtLeastOne, NotNegative, checked
from omnitok.errors import CheckpointError, describe, reason
from omnitok.hub.download import HUB_ID, HubRepository, from_hub, hub_repository
from omnitok.hub.header import (
    CARD_NAME,
    CONFIG_NAME,
    KINDS,
    PEER,
    TOKENIZER,
    WEIGHTS_NAME,
    first_sentence,
    read_architecture,
    read_json,
    read_shapes,
)

BUNDLED_FOLDER = Path(__file__).parents[1] / "pretrained_models"

HUB_OWNER = "omnitok"
"""Whose repositories on the hub hold the weights that the wheel leaves out, each under the model's name."""

MODELS_VARIABLE = "OMNITOK_MODELS"
"""Names a folder that holds such weights as NAME/model.safetensors."""

LIBRARIES_FOLDER = Path(__file__).parents[1] / "peers" / "libraries"
"""A file for each library that computes tokenizers, by its name; see `omnitok.peers.libraries`."""

TOKENIZER_FOLDER = "tokenizer"
"""Of a generator's folder: its tokenizer, where it goes with it."""


@checked
class TokenInfo:
    """What a tokenizer's tokens are."""

    vocab_size: AtLeastOne | None  # None without codes
    latent_channels: AtLeastOne
    bits_per_token: NotNegative
    downsample: tuple[AtLeastOne, AtLeastOne, AtLeastOne]  # frames, height and width of a patch in pixels


@dataclass(frozen=True)
class ModelInfo:
    """A row of the table of models; None where only the weights could tell and they are not on this machine."""

    name: str
    kind: str  # "tokenizer", "language model" or "diffusion"
    parameters: int | None  # trained weights and codebook
    bottleneck: str | None  # "vq", "kl", …; None of a generator and of other projects' tokenizers
    description: str
    source: str  # "bundled" (in the package), a folder, or the address the file is loaded from
    tokens: TokenInfo | None = None  # of a tokenizer
    family: str | None = None  # of another project's tokenizer


@dataclass(frozen=True)
class ReleasedFile:
    """A checkpoint that the authors published on the Hugging Face hub (MIT licence)."""

    filename: str
    bottleneck: Literal["vq", "kl"]
    training_data: str
    repository: str = "Daniel0724/OmniTokenizer"


# As listed in the authors' README (github.com/FoundationVision/OmniTokenizer).
RELEASED_FILES: dict[str, ReleasedFile] = {
    "omnitokenizer-imagenet": ReleasedFile("imagenet_only.ckpt", "vq", "ImageNet (images only)"),
    "omnitokenizer-celebahq": ReleasedFile("celebahq.ckpt", "vq", "CelebA-HQ"),
    "omnitokenizer-ffhq": ReleasedFile("ffhq.ckpt", "vq", "FFHQ"),
    "omnitokenizer-imagenet-ucf": ReleasedFile("imagenet_ucf.ckpt", "vq", "ImageNet and UCF-101"),
    "omnitokenizer-imagenet-k600": ReleasedFile("imagenet_k600.ckpt", "vq", "ImageNet and Kinetics-600"),
    "omnitokenizer-imagenet-mit": ReleasedFile("imagenet_mit.ckpt", "vq", "ImageNet and Moments in Time"),
    "omnitokenizer-imagenet-sthv2": ReleasedFile("imagenet_sthv2.ckpt", "vq", "ImageNet and Something-Something v2"),
    "omnitokenizer-celebahq-ucf": ReleasedFile("celebahq_ucf.ckpt", "vq", "CelebA-HQ and UCF-101"),
    "omnitokenizer-celebahq-k600": ReleasedFile("celebahq_k600.ckpt", "vq", "CelebA-HQ and Kinetics-600"),
    "omnitokenizer-ffhq-ucf": ReleasedFile("ffhq_ucf.ckpt", "vq", "FFHQ and UCF-101"),
    "omnitokenizer-ffhq-k600": ReleasedFile("ffhq_k600.ckpt", "vq", "FFHQ and Kinetics-600"),
    "omnitokenizer-imagenet-ucf-vae": ReleasedFile("imagenet_ucf_vae.ckpt", "kl", "ImageNet and UCF-101"),
    "omnitokenizer-imagenet-k600-vae": ReleasedFile("imagenet_k600_vae.ckpt", "kl", "ImageNet and Kinetics-600"),
}


# ------------------------------------------------------------------------------------------------------------ names


def pretrained_models() -> dict[str, Path]:
    """Names and folders of the models of the package; the weights of those seldom needed are not in its wheel."""
    if not BUNDLED_FOLDER.is_dir():
        return {}
    return {path.name: path for path in sorted(BUNDLED_FOLDER.iterdir()) if (path / CONFIG_NAME).is_file()}


def local_weights(name: str) -> Path | None:
    """The weights of a model of the package where they are on this machine: in it, or where OMNITOK_MODELS says."""
    named = os.environ.get(MODELS_VARIABLE)
    folders = [BUNDLED_FOLDER, *([Path(named)] if named else [])]
    paths = [folder / name / WEIGHTS_NAME for folder in folders] if name in pretrained_models() else []
    return next((path for path in paths if path.is_file()), None)


def list_models() -> list[str]:
    """Names that `from_pretrained` takes: the package's models, then the authors' (downloaded when first used)."""
    return [*pretrained_models(), *RELEASED_FILES]


@functools.cache
def libraries() -> tuple[str, ...]:
    """Libraries whose models can be named: `LIBRARY:FOLDER_OR_HUB_ID`."""
    return tuple(sorted(file.name for file in pkgutil.iter_modules([str(LIBRARIES_FOLDER)])))


def library_of(name_or_path: str | os.PathLike[str]) -> str | None:
    """The library that computes the model of that name, if one does."""
    library, colon, _ = os.fspath(name_or_path).partition(":")
    return library if colon and library in libraries() else None


def of_libraries() -> str:
    """How models of libraries are named, for messages."""
    return " or ".join(f"{library}:FOLDER_OR_HUB_ID" for library in libraries())


def model_info(name: str) -> ModelInfo:
    """What the headers of a bundled, local or released model say, without loading or checking all of it.

    Args:
        name: of `list_models`, or a folder.

    Raises:
        CheckpointError: an unknown name, or a folder without readable files.
    """
    if name in RELEASED_FILES:
        released = RELEASED_FILES[name]
        description = f"the authors' release, trained on {released.training_data}"
        source = f"https://huggingface.co/{released.repository}/resolve/main/{released.filename}"
        tokens = _token_info({"bottleneck": released.bottleneck})
        return ModelInfo(name, "tokenizer", None, released.bottleneck, description, source, tokens)
    if name in pretrained_models():
        config, weights = BUNDLED_FOLDER / name / CONFIG_NAME, local_weights(name)
        source = f"https://huggingface.co/{HUB_OWNER}/{name}" if weights is None else str(weights.parent)
        source = "bundled" if source == str(config.parent) else source
    else:
        files = find_files(name, download=False)
        if files.config is None:
            raise CheckpointError(
                f"{name}: is a released checkpoint, whose file says little of itself; convert it first"
            )
        config, weights, source = files.config, files.weights, str(files.config.parent)
    folder = config.parent
    fields = read_json(config)
    is_peer = fields.get("architecture") == PEER
    if not is_peer:
        fields = read_architecture(config)
    parameters = None if weights is None else _count_parameters(weights)
    kind = KINDS[TOKENIZER if is_peer else fields["architecture"]]
    description = first_sentence(folder / CARD_NAME)
    if kind != KINDS[TOKENIZER]:
        return ModelInfo(name, kind, parameters, None, description, source)
    nested = fields.get("bottleneck", "vq")
    bottleneck = nested.get("type") if isinstance(nested, dict) else nested
    try:
        tokens = _token_info({"tokens": fields["tokens"]} if is_peer else fields)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{config}: does not say what its tokens are ({reason(error)})") from error
    if is_peer:
        return ModelInfo(name, kind, parameters, None, description, source, tokens, describe(fields.get("family")))
    return ModelInfo(name, kind, parameters, str(bottleneck), description, source, tokens)


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Names for a table: as little of each path's end as tells them apart, without the `model` folder of a run."""
    parts = {}
    for model in models:
        path = PurePath(model)
        parts[model] = path.parts[:-1] if path.name == "model" and len(path.parts) > 1 else path.parts or (model,)
    length = 1
    while True:
        short = {model: "/".join(own[-length:]) for model, own in parts.items()}
        if len(set(short.values())) == len(short) or length > max(map(len, parts.values())):
            return short if len(set(short.values())) == len(short) else {model: model for model in models}
        length += 1


def _count_parameters(weights: Path) -> int:
    # The moving averages and the flag of a codebook serve its training only.
    not_counted = (".cluster_size", ".cluster_sum", ".initialised")
    return sum(math.prod(shape) for name, shape in read_shapes(weights).items() if not name.endswith(not_counted))


def _token_info(fields: dict[str, Any]) -> TokenInfo:
    """Of a tokenizer's configuration; those of older versions are quantizers or VAEs with these fields beside."""
    if tokens := fields.get("tokens"):
        return TokenInfo(**tokens)
    patch, channels = int(fields.get("patch_size", 8)), int(fields.get("latent_channels", 8))
    downsample = (int(fields.get("temporal_patch_size", 4)), patch, patch)
    if fields.get("bottleneck", "vq") == "kl":
        return TokenInfo(None, channels, 16.0 * channels, downsample)
    codes = int(fields.get("codebook_size", 8192))
    return TokenInfo(codes, channels, math.log2(codes), downsample)


def _unknown_name(name: str) -> str:
    known = list_models()
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"{name}: no such model, folder or file; {hint}known names are {', '.join(known)}; also accepted are a folder "
        f"with {CONFIG_NAME} and {WEIGHTS_NAME}, a hub id (owner/name or owner/name@revision), a released .ckpt or "
        f"reference .safetensors, and {of_libraries()}"
    )


# -------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Files:
    """Of a model; a released checkpoint has no configuration of ours."""

    config: Path | None
    weights: Path


def find_files(name_or_path: str | os.PathLike[str], download: bool = True) -> Files:
    """The files behind a name, folder, file or hub id.

    Args:
        download: get what is on the hub and not on this machine.

    Raises:
        CheckpointError: there are none.
    """
    name, path = os.fspath(name_or_path), Path(name_or_path)
    if name in pretrained_models():
        return _pretrained_files(BUNDLED_FOLDER / name, download)
    if path.is_dir():
        return _files_in(path)
    if path.is_file():
        own = path.name == WEIGHTS_NAME and (path.parent / CONFIG_NAME).is_file()
        return _files_in(path.parent) if own else Files(None, path)
    if download and name in RELEASED_FILES:
        released = RELEASED_FILES[name]
        return Files(None, from_hub(released.repository, released.filename))
    if path.suffix in (".ckpt", ".safetensors", ".pt", ".pth"):
        raise CheckpointError(f"{name}: no such file")
    if len(path.parts) > 1 and path.parent.is_dir():  # a mistyped path, not a hub id: no need to ask the network
        raise CheckpointError(f"{name}: no such folder or file")
    if download and HUB_ID.fullmatch(name):
        return _hub_files(hub_repository(name))
    raise CheckpointError(_unknown_name(name))


def architecture_of(name_or_path: str | os.PathLike[str]) -> str | None:
    """What the `config.json` of a model calls it (a key of `KINDS`, or `PEER`); None without one of ours.

    Raises:
        CheckpointError: as `find_files`.
    """
    config = None if library_of(name_or_path) else find_files(name_or_path).config
    return None if config is None else read_json(config).get("architecture")


def _pretrained_files(folder: Path, download: bool) -> Files:
    """Of a model of the package, whose `config.json` pins the weights that come from elsewhere by their SHA-256.

    Raises:
        CheckpointError: other weights, or none.
    """
    name, expected = folder.name, read_json(folder / CONFIG_NAME).get("weights_sha256")
    wanted = (
        f"needs the {WEIGHTS_NAME} with the SHA-256 {expected}, which this installation leaves out; get it from "
        f"src/omnitok/pretrained_models/{name} of omnitok's repository, and give that folder in place of the name, or "
        f"put it in FOLDER/{name} and name FOLDER with {MODELS_VARIABLE}"
    )
    weights = local_weights(name)
    if weights is None and not download:
        raise CheckpointError(f"{name}: {wanted}")
    if weights is None:
        try:
            weights = from_hub(f"{HUB_OWNER}/{name}", WEIGHTS_NAME)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {wanted} ({error})") from error
    if weights.parent != folder and (found := sha256_of(weights)) != expected:
        raise CheckpointError(f"{name}: {wanted} ({weights} has the SHA-256 {found})")
    return Files(folder / CONFIG_NAME, weights)


def _hub_files(repository: HubRepository) -> Files:
    """Of a model on the hub; the tokenizer of a generator comes with it."""
    config = repository.file(CONFIG_NAME)
    _check_ours(config, repository.name)
    weights = repository.file(WEIGHTS_NAME)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if repository.has(f"{TOKENIZER_FOLDER}/{name}"):
            repository.file(f"{TOKENIZER_FOLDER}/{name}")
    return Files(config, weights)


def _files_in(folder: Path) -> Files:
    """Of a model's folder, or of the model inside a run's folder."""
    if not (folder / CONFIG_NAME).exists() and (folder / "model" / CONFIG_NAME).is_file():
        folder = folder / "model"
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if name == WEIGHTS_NAME:
            _check_ours(folder / CONFIG_NAME, str(folder))
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: holds no {name}; a model is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, and the folder "
                "of a run has one in its subfolder model"
            )
    return Files(folder / CONFIG_NAME, folder / WEIGHTS_NAME)


def _check_ours(config: Path, name: str) -> None:
    """Refuse what a library wrote: its `config.json` says the library's version, as `_diffusers_version`.

    Raises:
        CheckpointError: it names the library.
    """
    written = {field.strip("_") for field in read_json(config)}
    library = next((library for library in libraries() if f"{library}_version" in written), None)
    if library is not None:
        raise CheckpointError(f"{name}: holds a model of {library}; say {library}:{name}")
