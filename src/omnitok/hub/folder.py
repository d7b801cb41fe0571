"""Models by name or folder: load and save. All is checked before anything large is allocated."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnitok.atomic import atomic_path, sha256_of
from omnitok.data.modality import Modality
from omnitok.data.pixel_format import PixelFormat
from omnitok.errors import CheckpointError, OmnitokError, reading, reason
from omnitok.hub.architectures import (
    ARCHITECTURES,
    Config,
    Generator,
    build_on_meta,
    check_shapes,
    shapes_of,
)
from omnitok.hub.card import card_metadata, generator_card, tokenizer_card, with_metadata
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.header import (
    CARD_NAME,
    CONFIG_NAME,
    GENERATORS,
    KINDS,
    TOKENIZER,
    WEIGHTS_NAME,
    read_architecture,
    read_shapes,
)
from omnitok.hub.names import TOKENIZER_FOLDER, Files, find_files
from omnitok.hub.released import convert_read
from omnitok.hub.released.reader import ReleasedCheckpoint, read_released_checkpoint
from omnitok.models.protocol import LatentStatistics, Tokenizer
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.version import VERSION

Checked = TypeVar("Checked")

_RENAMED = {"tokens_of": "compatible_tokenizers"}
_BESIDE = (
    "architecture",
    "omnitok_version",
    "weights_sha256",
    "tokens",
    "channel_ranges",
    "latent_statistics",
    "latent_mean",
    "latent_std",
    "compatible_tokenizers",
    "trained_on",
    "settings",
)
"""Fields of `config.json` that are not architecture."""


# ------------------------------------------------------------------------------------------------------------- config


@dataclass(frozen=True)
class ModelDescription:
    """What a `config.json` says.

    Attributes:
        config: the architecture.
        weights_sha256: of `model.safetensors`; None in folders of older versions.
        settings: of a generator.
        statistics, compatible, trained_on, ranges: of a tokenizer; see `OmniTokenizer`.
    """

    config: Config
    weights_sha256: str | None = None
    settings: GeneratorSettings | None = None
    statistics: LatentStatistics | None = None
    compatible: tuple[str, ...] = ()
    trained_on: tuple[Modality, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()

    def tell(self, tokenizer: OmniTokenizer) -> None:
        """Let a tokenizer know what is known of it beside its weights."""
        tokenizer.latent_statistics = self.statistics
        tokenizer.compatible_tokenizers = self.compatible
        tokenizer.trained_on = self.trained_on
        tokenizer.channel_ranges = self.ranges


def read_description(path: str | os.PathLike[str], accepted: tuple[str, ...] = tuple(KINDS)) -> ModelDescription:
    """The configuration in a `config.json`, every field checked for its type and value.

    Raises:
        CheckpointError: one sentence that begins with the path.
    """
    fields = {_RENAMED.get(name, name): value for name, value in read_architecture(path, accepted).items()}
    if isinstance(condition := fields.get("condition"), dict) and condition.get("type") == "text":
        fields["condition"] = {"kernel": 1, **condition}  # which models of texts had before there was the field
    beside = {name: fields.pop(name) for name in _BESIDE if name in fields}
    sha256 = beside.get("weights_sha256")
    kind, _ = ARCHITECTURES[beside["architecture"]]
    try:
        config: Config = _checked_fields(fields, kind)
        if not isinstance(sha256, str | None):
            raise ValueError(f"field weights_sha256 must be text, found {type(sha256).__name__}")
        if not isinstance(config, TokenizerConfig):
            settings = _checked_fields(beside.get("settings"), GeneratorSettings)
            return ModelDescription(config, sha256, settings=settings)
        known = beside.get("latent_statistics")
        if known is None and beside.get("latent_mean") is not None and beside.get("latent_std") is not None:
            known = {"mean": beside["latent_mean"], "std": beside["latent_std"]}
        statistics = None if known is None else _checked_fields(known, LatentStatistics)
        if statistics is not None and len(statistics.mean) != config.bottleneck.latent_channels:
            expected, found = config.bottleneck.latent_channels, len(statistics.mean)
            raise ValueError(f"latent statistics must have {expected} channels, found {found}")
        compatible = _checked_fields(beside.get("compatible_tokenizers") or [], tuple[str, ...])
        trained_on = _checked_fields(beside.get("trained_on") or [], tuple[Modality, ...])
        ranges = PixelFormat(config.channels, beside.get("channel_ranges") or ()).ranges
        return ModelDescription(config, sha256, None, statistics, compatible, trained_on, ranges)
    except ValueError as error:
        raise CheckpointError(f"{path}: {str(error).strip()}") from error


def _checked_fields(fields: object, kind: type[Checked]) -> Checked:
    """An instance of a checked class from what JSON gave.

    Raises:
        ValueError: one sentence that names the field.
    """
    try:
        return TypeAdapter(kind).validate_python(fields)
    except ValidationError as error:
        raise ValueError(reason(error)) from error


# --------------------------------------------------------------------------------------------------------------- load


def load_tokenizer(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OmniTokenizer:
    """A trained tokenizer in `eval` mode; what `OmniTokenizer.from_pretrained` calls.

    Args:
        name_or_path: a name of `list_models`; a folder with `config.json` and `model.safetensors`, or the folder of a
            run; a released `.ckpt` or reference `.safetensors`; a hub id `owner/name`. They are tried in this order.
        device, dtype: where and how the weights are kept; the bottleneck stays in float32.

    Raises:
        CheckpointError: an unknown name, or missing, corrupt, foreign or unreachable files, in one sentence.
        ValueError: a dtype that is not floating point.
    """
    check_dtype(dtype)
    files = find_files(name_or_path)
    if files.config is None:
        tokenizer = released_tokenizer(files.weights, read_released_checkpoint(files.weights))
    else:
        tokenizer = tokenizer_of(files)
    return tokenizer.to(device, dtype).eval()


def tokenizer_of(files: Files) -> OmniTokenizer:
    """The tokenizer of a folder of ours whose files were found already.

    Raises:
        CheckpointError: another model, or damaged files.
    """
    assert files.config is not None
    description = read_description(files.config, (TOKENIZER,))
    tokenizer: OmniTokenizer = _load(files, description)
    description.tell(tokenizer)
    return tokenizer


def released_tokenizer(path: Path, checkpoint: ReleasedCheckpoint) -> OmniTokenizer:
    """The tokenizer of a released file that was read already.

    Raises:
        CheckpointError: another model, or none.
    """
    tokenizer = convert_read(checkpoint, path)
    if not isinstance(tokenizer, OmniTokenizer):
        raise CheckpointError(f"{path}: holds a {type(tokenizer).__name__}, where a tokenizer is wanted")
    return tokenizer


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator's model and what its folder says beside the weights.

    Attributes:
        tokenizer: name or path of its tokenizer, found from the generator's folder.
    """

    model: Generator
    settings: GeneratorSettings
    tokenizer: str


def load_generator_model(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainedGenerator:
    """A trained language model or diffusion transformer in `eval` mode, without its tokenizer.

    Args:
        name_or_path: a bundled name, a folder (also of a run), or a hub id, in this order.
        device, dtype: where and how the weights are kept.

    Raises:
        CheckpointError: an unknown name, a tokenizer, a released checkpoint (which says no tokenizer), or missing,
            corrupt, foreign or unreachable files, in one sentence.
        ValueError: a dtype that is not floating point.
    """
    check_dtype(dtype)
    files = find_files(name_or_path)
    if files.config is None:
        raise CheckpointError(
            f"{name_or_path}: a released checkpoint does not say which tokenizer it belongs to; "
            "use omnitok.convert_checkpoint and give the model and a tokenizer to LanguageModelGenerator or "
            "DiffusionGenerator"
        )
    description = read_description(files.config, GENERATORS)
    assert description.settings is not None
    tokenizer = find_tokenizer(files.config.parent, description.settings.tokenizer)
    return TrainedGenerator(_load(files, description).to(device, dtype).eval(), description.settings, tokenizer)


def find_tokenizer(folder: Path, name: str) -> str:
    """The tokenizer that a generator's folder holds, or else the one of that name, wherever the folder has moved to.

    A path that training started with is looked for from the generator's folder and from each folder around it, then
    from where we are; whoever loads it compares its fingerprint.
    """
    if (folder / TOKENIZER_FOLDER / CONFIG_NAME).is_file():
        return str(folder / TOKENIZER_FOLDER)
    around = () if Path(name).is_absolute() else (folder.absolute(), *folder.absolute().parents)
    for start in around:
        for candidate in (start / name, start / name / "model"):
            if (candidate / CONFIG_NAME).is_file():
                return str(candidate)
    return name


def check_dtype(dtype: torch.dtype) -> None:
    """Refuse a precision that weights cannot have.

    Raises:
        ValueError: a dtype that is not floating point.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, found {dtype}")


def _load(files: Files, description: ModelDescription) -> Any:
    """The model of a description with the weights of its file, which must be the ones that were saved."""
    model = check_weights(files.weights, description.config, read_shapes(files.weights))
    check_sha256(files.weights, description.weights_sha256)
    model.load_state_dict(read_weights(files.weights, model.state_dict()), assign=True)
    return model


def check_sha256(path: Path, expected: str | None) -> None:
    """Refuse weights that are not the ones that were saved; folders of older versions say no hash (None).

    Raises:
        CheckpointError: the file has another hash.
    """
    if expected is not None and (found := sha256_of(path)) != expected:
        raise CheckpointError(
            f"{path}: is damaged or not the file that was saved: its SHA-256 is {found}, {CONFIG_NAME} "
            f"says {expected} (remove weights_sha256 there if you changed the weights yourself)"
        )


def check_weights(path: Path, config: Config, found: Mapping[str, tuple[int, ...]]) -> Any:
    """A model on the meta device, after the weights that a file holds (name -> shape) were compared with its own.

    Raises:
        CheckpointError: unknown, missing or misshapen weights, a few of them named.
    """
    blocks = _blocks(config)
    if blocks > len(found):  # before any of them is built
        raise CheckpointError(
            f"{path}: {CONFIG_NAME} asks for {blocks} blocks, the weights file holds {len(found)} weights"
        )
    try:
        model = build_on_meta(config)
        check_shapes(shapes_of(model), found)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: does not fit its {CONFIG_NAME}: {error}") from error
    return model


def _blocks(config: Config) -> int:
    if isinstance(config, TokenizerConfig):
        spatial = len(config.encoder_blocks) + len(config.decoder_blocks)
        return spatial + config.encoder_temporal_blocks + config.decoder_temporal_blocks
    return config.depth


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights named in `expected`, in its dtypes; shapes are those of the file.

    Raises:
        CheckpointError: a missing weight, whole numbers for floating point ones, a damaged file.
    """
    weights = {}
    with reading(path, CheckpointError, "safetensors file"), safe_open(path, framework="pt") as file:
        for name, like in expected.items():
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() != like.is_floating_point():
                raise CheckpointError(f"{path}: weight {name} has dtype {tensor.dtype} instead of {like.dtype}")
            weights[name] = tensor.to(like.dtype, copy=True)  # a copy: the file may be replaced while the model lives
    return weights


# --------------------------------------------------------------------------------------------------------------- save


def save_tokenizer(tokenizer: OmniTokenizer, folder: str | os.PathLike[str]) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) into `folder`.

    Each appears under its name only when complete, so an interruption leaves no half-written file.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, no permission, a file of that name).
    """
    statistics = tokenizer.latent_statistics
    beside: dict[str, Any] = {
        "tokens": token_facts(tokenizer),
        "latent_statistics": None if statistics is None else dataclasses.asdict(statistics),
        "compatible_tokenizers": list(tokenizer.compatible_tokenizers),
        "trained_on": list(tokenizer.trained_on),
    }
    if tokenizer.channel_ranges:
        beside["channel_ranges"] = [list(pair) for pair in tokenizer.channel_ranges]
    config = dataclasses.asdict(tokenizer.config) | beside
    return write_model(folder, TOKENIZER, config, tokenizer.state_dict(), lambda name: tokenizer_card(tokenizer, name))


def token_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `config.json` says of the tokens, for whoever reads it without building the model."""
    return {
        "vocab_size": tokenizer.vocab_size,
        "latent_channels": tokenizer.latent_channels,
        "bits_per_token": tokenizer.bits_per_token,
        "downsample": list(tokenizer.downsample),
    }


def save_generator(
    model: Generator,
    settings: GeneratorSettings,
    folder: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) into `folder`.

    Each appears under its name only when complete, so an interruption leaves no half-written file.

    Args:
        tokenizer: written into `folder`/tokenizer too, so that the folder can go anywhere by itself.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, no permission, a file of that name).
    """
    beside = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    config = dataclasses.asdict(model.config) | {"settings": beside | {"sampling": settings.sampling.chosen()}}
    if tokenizer is not None:
        tokenizer.save_pretrained(Path(folder) / TOKENIZER_FOLDER)
    return write_model(
        folder, type(model).__name__, config, model.state_dict(), lambda name: generator_card(model, settings, name)
    )


def write_model(
    folder: str | os.PathLike[str],
    architecture: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    card: Callable[[str], str],
) -> Path:
    """Write the files of a model; see `save_tokenizer`.

    Args:
        config: what `config.json` holds beside the architecture, the package's version and the SHA-256 of the weights.
        card: the text of README.md for a model of that name.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    folder = Path(folder)
    fields = {"architecture": architecture, "omnitok_version": VERSION, **config}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS_NAME, apart=True) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
            sha256 = sha256_of(temporary)
            if (folder / WEIGHTS_NAME).exists():  # without a hash both weights load, should all end here
                _write_config(folder, fields)
        _write_config(folder, fields | {"weights_sha256": sha256})
        if not (folder / CARD_NAME).exists():
            with atomic_path(folder / CARD_NAME) as temporary:
                text = with_metadata(card(folder.resolve().name), card_metadata(fields))
                temporary.write_text(text, encoding="utf-8")
    except OmnitokError:
        raise
    except Exception as error:  # safetensors has a class of its own for a full disk
        raise CheckpointError(f"{folder}: the model cannot be written here ({reason(error)})") from error
    return folder


def _write_config(folder: Path, fields: Mapping[str, Any]) -> None:
    with atomic_path(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
