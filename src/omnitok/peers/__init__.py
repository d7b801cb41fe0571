"""Tokenizers of other projects behind our protocol, and `load_tokenizer`, which takes any tokenizer, theirs or ours."""

import importlib
import os
import pkgutil

import torch

from omnitok.errors import CheckpointError
from omnitok.hub.architectures import listed
from omnitok.hub.folder import check_dtype, released_tokenizer, tokenizer_of
from omnitok.hub.header import PEER, read_json
from omnitok.hub.names import find_files, library_of, of_libraries
from omnitok.hub.released import kind_of
from omnitok.hub.released.reader import read_released_checkpoint
from omnitok.models.protocol import Tokenizer
from omnitok.peers import libraries
from omnitok.peers.base import PeerTokenizer
from omnitok.peers.family import Family, convert_peer, describe_from_library, load_from_library, load_peer_folder


def _find_families() -> tuple[Family, ...]:
    folders = {__name__: __path__, libraries.__name__: libraries.__path__}
    names = [f"{package}.{file.name}" for package, path in folders.items() for file in pkgutil.iter_modules(path)]
    modules = [importlib.import_module(name) for name in names]
    families: list[Family] = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return tuple(sorted(families, key=lambda family: family.name))


FAMILIES = _find_families()
"""What the files of this room and of `libraries` declare as FAMILY, by name."""


def load_tokenizer(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tokenizer:
    """Any tokenizer behind the protocol, in `eval` mode.

    Args:
        name_or_path: whatever `OmniTokenizer.from_pretrained` takes; a released checkpoint of one of `FAMILIES`,
            recognised by its weights, or the folder that `omnitok convert` made of it; a model that one of `libraries`
            computes, as `diffusers:FOLDER_OR_HUB_ID` or `diffusers:FOLDER_OR_HUB_ID#SUBFOLDER`.
        device, dtype: where and how the weights are kept.

    Raises:
        CheckpointError: an unknown name, or missing, corrupt, foreign or unreachable files, in one sentence.
        ValueError: a dtype that is not floating point.
    """
    check_dtype(dtype)
    return _load(os.fspath(name_or_path)).to(device, dtype).eval()


def describe_from(library: str, name: str) -> PeerTokenizer:
    """The model that a library names so, as its configuration says, on the meta device; no weights are read.

    Raises:
        CheckpointError: no such model, or one that is not taken.
    """
    return describe_from_library(_family(library), name)


def _family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


def _load(name: str) -> Tokenizer:
    library = library_of(name)
    if library is not None:
        return load_from_library(_family(library), name.removeprefix(f"{library}:"))
    files = find_files(name)
    architecture = None if files.config is None else read_json(files.config).get("architecture")
    if files.config is not None and architecture == PEER:
        return load_peer_folder(files.config, files.weights, FAMILIES)
    if architecture is not None:
        return tokenizer_of(files)
    checkpoint = read_released_checkpoint(files.weights)  # the config.json beside it, if there is one, is not ours
    peer = convert_peer(files.weights, checkpoint, FAMILIES)
    if peer is not None:
        return peer
    if files.config is not None:
        return tokenizer_of(files)
    if kind_of(checkpoint.state_dict) is None:
        families = ", ".join(family.name for family in FAMILIES if family.library is None)
        raise CheckpointError(
            f"{files.weights}: holds no released model that is known: accepted are OmniTokenizer's and those of "
            f"{families} (a model of a library is {of_libraries()}); its weights are "
            f"{listed(list(checkpoint.state_dict))}"
        )
    return released_tokenizer(files.weights, checkpoint)
