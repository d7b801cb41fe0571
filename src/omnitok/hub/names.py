"""Trained models by name: find, load, list. A model is a folder of `config.json`, `model.safetensors`, `README.md`."""

import difflib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from omnitok.errors import CheckpointError
from omnitok.hub.card import first_sentence
from omnitok.hub.folder import (
    ARCHITECTURES,
    CARD_NAME,
    CONFIG_NAME,
    GENERATORS,
    WEIGHTS_NAME,
    check_weights,
    first_line,
    load_model,
    read_description,
    read_shapes,
)
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.released import convert_checkpoint
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

BUNDLED_FOLDER = Path(__file__).parents[1] / "pretrained_models"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelInfo:
    """A row of the table of models; None where only the weights could tell and they are not on this machine."""

    name: str
    kind: str  # "tokenizer", "language model" or "diffusion"
    parameters: int | None  # trained weights and codebook
    bottleneck: str | None  # "vq" or "kl"; None of a generator
    description: str
    source: str  # "bundled", a folder, or the address the file is loaded from


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


def bundled_models() -> dict[str, Path]:
    """Names and folders of the models that ship with the package."""
    if not BUNDLED_FOLDER.is_dir():
        return {}
    return {path.name: path for path in sorted(BUNDLED_FOLDER.iterdir()) if (path / CONFIG_NAME).is_file()}


def list_models() -> list[str]:
    """Names that `from_pretrained` takes: bundled models, then the authors' (downloaded when first used)."""
    return [*bundled_models(), *RELEASED_FILES]


def model_info(name: str) -> ModelInfo:
    """What is known of a bundled, local or released model without loading its weights: headers alone are read.

    Args:
        name: of `list_models`, or a folder.

    Raises:
        CheckpointError: an unknown name, or a folder without a valid configuration or weights.
    """
    if name in RELEASED_FILES:
        released = RELEASED_FILES[name]
        description = f"the authors' release, trained on {released.training_data}"
        source = f"https://huggingface.co/{released.repository}/resolve/main/{released.filename}"
        return ModelInfo(name, "tokenizer", None, released.bottleneck, description, source)
    bundled = bundled_models()
    folder = bundled.get(name, Path(name))
    if not folder.is_dir():
        raise CheckpointError(_unknown_name(name))
    shapes = read_shapes(folder / WEIGHTS_NAME)
    described = read_description(folder / CONFIG_NAME)
    check_weights(folder, described.config, shapes)
    # The moving averages and the flag of a codebook serve its training only.
    not_counted = ("bottleneck.cluster_size", "bottleneck.cluster_sum", "bottleneck.initialised")
    parameters = sum(math.prod(shape) for weight, shape in shapes.items() if weight not in not_counted)
    bottleneck = described.config.bottleneck if isinstance(described.config, TokenizerConfig) else None
    kind = ARCHITECTURES[described.architecture].title
    source = "bundled" if name in bundled else str(folder)
    return ModelInfo(name, kind, parameters, bottleneck, first_sentence(folder / CARD_NAME), source)


def _unknown_name(name: str) -> str:
    known = list_models()
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"{name}: no such model, folder or file; {hint}known names are {', '.join(known)}; also accepted are a folder "
        f"with {CONFIG_NAME} and {WEIGHTS_NAME}, a hub id (owner/name), and a released .ckpt or reference .safetensors"
    )


# ------------------------------------------------------------------------------------------------------------- load


def load_tokenizer(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OmniTokenizer:
    """A trained tokenizer in `eval` mode; what `OmniTokenizer.from_pretrained` calls.

    Args:
        name_or_path: a name of `list_models`; a folder with `config.json` and `model.safetensors`; a released `.ckpt`
            or reference `.safetensors`; a hub id `owner/name`. They are tried in this order.
        device, dtype: where and how the weights are kept; the bottleneck stays in float32.

    Raises:
        CheckpointError: an unknown name, or missing, corrupt, foreign or unreachable files, in one sentence.
        ValueError: a dtype that is not floating point.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, found {dtype}")
    files = _find_files(name_or_path)
    if files.config is None:
        tokenizer = _convert_tokenizer(files.weights)
    else:
        tokenizer = load_model(read_description(files.config, ("OmniTokenizer",)), files.weights)
    return tokenizer.to(device, dtype).eval()


@dataclass(frozen=True)
class _Files:
    """Of a model; a released checkpoint has no configuration of ours."""

    config: Path | None
    weights: Path


def _find_files(name_or_path: str | os.PathLike[str]) -> _Files:
    """The files behind a name, folder, file or hub id, downloaded where needed.

    Raises:
        CheckpointError: there are none.
    """
    name, path = os.fspath(name_or_path), Path(name_or_path)
    bundled = bundled_models()
    if name in bundled:
        return _files_of(bundled[name])
    if path.is_dir():
        return _files_of(path)
    if path.is_file():
        own = path.name == WEIGHTS_NAME and (path.parent / CONFIG_NAME).is_file()
        return _files_of(path.parent) if own else _Files(None, path)
    if name in RELEASED_FILES:
        released = RELEASED_FILES[name]
        return _Files(None, _from_hub(released.repository, released.filename))
    if path.suffix in (".ckpt", ".safetensors", ".pt", ".pth"):
        raise CheckpointError(f"{name}: no such file")
    if len(path.parts) > 1 and path.parent.is_dir():  # a mistyped path, not a hub id: no need to ask the network
        raise CheckpointError(f"{name}: no such folder or file")
    if _HUB_ID.fullmatch(name):
        return _Files(*(_from_hub(name, filename) for filename in (CONFIG_NAME, WEIGHTS_NAME)))
    raise CheckpointError(_unknown_name(name))


def _files_of(folder: Path) -> _Files:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: holds no {name}; a model is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}"
            )
    return _Files(folder / CONFIG_NAME, folder / WEIGHTS_NAME)


def _convert_tokenizer(path: Path) -> OmniTokenizer:
    model = convert_checkpoint(path)
    if not isinstance(model, OmniTokenizer):
        raise CheckpointError(f"{path}: holds a {type(model).__name__}, where a tokenizer is wanted")
    return model


def _from_hub(repository: str, filename: str) -> Path:
    """The file in the hub's local cache, downloaded where needed."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    # What stops a download (no network, a proxy, a rate limit, a full disk) has its own classes in several packages.
    try:
        return Path(hf_hub_download(repository, filename))
    except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, so first
        raise CheckpointError(
            f"{repository}: not a folder here, and the Hugging Face hub cannot be reached for {filename}, which its "
            "cache does not hold; download the files elsewhere and give their folder or file"
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{repository}: this hub repository holds no {filename}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: neither a folder here nor a public repository on the Hugging Face hub; "
            f"bundled and known names are {', '.join(list_models())}"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{repository}: {filename} cannot be downloaded from the Hugging Face hub ({first_line(error)})"
        ) from error


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator's model and what its folder says beside the weights."""

    model: LanguageModel | DiffusionTransformer
    settings: GeneratorSettings


def load_generator_model(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainedGenerator:
    """A trained language model or diffusion transformer in `eval` mode, without its tokenizer.

    Args:
        name_or_path: a bundled name, a folder, or a hub id, in this order.
        device, dtype: where and how the weights are kept.

    Raises:
        CheckpointError: an unknown name, a tokenizer, a released checkpoint (which says no tokenizer), or missing,
            corrupt, foreign or unreachable files, in one sentence.
        ValueError: a dtype that is not floating point.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, found {dtype}")
    files = _find_files(name_or_path)
    if files.config is None:
        raise CheckpointError(
            f"{name_or_path}: a released checkpoint does not say which tokenizer it belongs to; "
            "use omnitok.convert_checkpoint and give the model and a tokenizer to LanguageModelGenerator or "
            "DiffusionGenerator"
        )
    description = read_description(files.config, GENERATORS)
    assert description.settings is not None
    model = load_model(description, files.weights)
    return TrainedGenerator(model.to(device, dtype).eval(), description.settings)
