"""Released files and our folders of them -> the tokenizer of the family that they belong to; see `peers/base.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitok.errors import CheckpointError, describe, reading
from omnitok.hub.architectures import WithoutInit, check_shapes, shapes_of
from omnitok.hub.folder import check_sha256, read_weights
from omnitok.hub.header import read_json, read_shapes
from omnitok.hub.released.reader import ReleasedCheckpoint
from omnitok.peers.base import PeerTokenizer
from omnitok.peers.library import Library, Reference

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """What a file of this room declares as FAMILY.

    Attributes:
        name: as `config.json` of a converted folder has it, "taming-vqgan"; of a library, what its models begin with.
        build: config -> a tokenizer with fresh weights.
        recognises: whether a file with weights of these released names and shapes is of this family. No file is of two,
            so families are asked in any order.
        convert: weights and flags of a file -> (config, weights under the names of the tokenizer).
        hints: what a file's name, or files beside it, say in place of flags that it lacks.
        library: where models of the family are, if a library computes them; its models are named, not recognised.
    """

    name: str
    build: Callable[[Mapping[str, Any]], PeerTokenizer]
    recognises: Callable[[Shapes], bool] = lambda shapes: False
    convert: Callable[[dict[str, Tensor], Mapping[str, object]], tuple[dict[str, Any], dict[str, Tensor]]] = (
        lambda weights, flags: ({}, weights)
    )
    hints: Callable[[Path], Mapping[str, object]] = lambda path: {}
    library: Library | None = None


def convert_peer(path: Path, checkpoint: ReleasedCheckpoint, families: Sequence[Family]) -> PeerTokenizer | None:
    """The tokenizer in a released file; None where no family knows it.

    Raises:
        CheckpointError: unknown, missing or misshapen weights, listed; the sentence begins with the path.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.state_dict.items()}
    family = next((family for family in families if family.recognises(shapes)), None)
    if family is None:
        return None
    try:
        with reading(path, CheckpointError, f"{family.name} checkpoint"):
            flags = {**family.hints(path), **checkpoint.hyper_parameters}
            config, weights = family.convert(checkpoint.state_dict, flags)
            return assemble(family, config, weights)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def load_from_library(family: Family, name: str) -> PeerTokenizer:
    """The tokenizer that a library names so, on the CPU.

    Args:
        name: a folder or a hub id `owner/name`, with `#SUBFOLDER` where it lies in one ("vae" of a pipeline).

    Raises:
        CheckpointError: missing or damaged files, an unknown architecture, weights that do not fit: one sentence.
        MissingExtraError: the library is not installed.
    """
    assert family.library is not None
    reference = Reference(family.name, family.library, name)
    config, weights = reference.config(), reference.weights()
    with reference.telling():
        return assemble(family, config, weights)


def describe_from_library(family: Family, name: str) -> PeerTokenizer:
    """The same as its `config.json` says, on the meta device: its weights are neither read nor looked for."""
    assert family.library is not None
    reference = Reference(family.name, family.library, name)
    config = reference.config()
    with reference.telling(), torch.device("meta"), WithoutInit():
        return family.build(config)


def assemble(family: Family, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> PeerTokenizer:
    """The tokenizer of a config with copies of those weights.

    Raises:
        CheckpointError: unknown, missing or misshapen weights, listed.
    """
    peer = _build(family, config, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    expected = peer.state_dict()
    for name, tensor in weights.items():
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise CheckpointError(f"weight {name} has dtype {tensor.dtype} instead of {expected[name].dtype}")
    own = {name: tensor.to(expected[name].dtype, copy=True).contiguous() for name, tensor in weights.items()}
    peer.load_state_dict(own, assign=True)
    return peer


AVERAGES = "model_ema."


def averaged(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the model without those of its training, averaged over the training where the file holds averages.

    An average has the name of its weight without the dots, and a weight without an average stays under a name that says
    so, which the loader lists.
    """
    own = {name: each for name, each in state_dict.items() if not name.startswith((AVERAGES, "loss."))}
    averages = {name.removeprefix(AVERAGES): each for name, each in state_dict.items() if name.startswith(AVERAGES)}
    if not averages:
        return own
    found = {name: averages.pop(name.replace(".", ""), None) for name in own}
    left_over = {name: each for name, each in averages.items() if not name.startswith(("loss", "decay", "num_updates"))}
    return {
        **{name: each for name, each in found.items() if each is not None},
        **{f"{name} (without an average)": own[name] for name, each in found.items() if each is None},
        **{f"{AVERAGES}{name}": each for name, each in left_over.items()},
    }


def load_peer_folder(config_path: Path, weights: Path, families: Sequence[Family]) -> PeerTokenizer:
    """The tokenizer that `PeerTokenizer.save_pretrained` wrote.

    Raises:
        CheckpointError: an unknown family, fields or weights that do not fit it; the sentence begins with the path.
    """
    fields = read_json(config_path)
    family = next((family for family in families if family.name == fields.get("family")), None)
    if family is None:
        known = ", ".join(family.name for family in families) or "none"
        raise CheckpointError(f"{config_path}: field family is {describe(fields.get('family'))}, known are {known}")
    config, sha256 = fields.get("config"), fields.get("weights_sha256")
    if not isinstance(config, dict) or not isinstance(sha256, str | None):
        raise CheckpointError(f"{config_path}: needs an object 'config' and text 'weights_sha256'")
    with reading(config_path, CheckpointError, f"configuration of {family.name}"):
        try:
            peer = _build(family, config, read_shapes(weights))
        except CheckpointError as error:
            raise CheckpointError(f"{weights}: does not fit its {config_path.name}: {error}") from error
    check_sha256(weights, sha256)
    peer.load_state_dict(read_weights(weights, peer.state_dict()), assign=True)
    return peer


def _build(family: Family, config: Mapping[str, Any], shapes: Shapes) -> PeerTokenizer:
    """A tokenizer for weights of those shapes: first without memory, so that a config cannot claim what it likes."""
    with torch.device("meta"), WithoutInit():
        check_shapes(shapes_of(family.build(config)), shapes)
    with WithoutInit():
        peer = family.build(config)
    peer.family = family.name
    return peer


def count(weights: Mapping[str, Tensor], before: str) -> int:
    """How many parts `before0`, `before1`, … there are; the weights of one begin with its name and a dot."""
    names = {name.removeprefix(before).split(".")[0] for name in weights if name.startswith(before)}
    return next(number for number in range(len(names) + 1) if str(number) not in names)
