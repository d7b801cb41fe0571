"""Tokenizers of other projects behind our protocol, and `load_tokenizer`, which takes any tokenizer, theirs or ours."""

import os

import torch

from omnitok.errors import CheckpointError
from omnitok.hub.architectures import listed
from omnitok.hub.folder import check_dtype, released_tokenizer, tokenizer_of
from omnitok.hub.header import PEER, read_json
from omnitok.hub.names import DIFFUSERS_PREFIX, find_files
from omnitok.hub.released import kind_of
from omnitok.hub.released.reader import read_released_checkpoint
from omnitok.models.protocol import Tokenizer
from omnitok.peers import cosmos, open_magvit2, tats, vidtok, vqgan
from omnitok.peers.diffusers import DIFFUSERS, load_diffusers
from omnitok.peers.family import Family, convert_peer, load_peer_folder

FAMILIES: tuple[Family, ...] = (
    Family("tats", tats.recognises, tats.convert, tats.TATS),
    Family("vidtok", vidtok.recognises, vidtok.convert, vidtok.VidTok, vidtok.hints),
    Family("cosmos-video", cosmos.recognises, cosmos.convert, cosmos.Cosmos, cosmos.hints),
    Family("vqgan", vqgan.recognises, vqgan.convert, vqgan.VQGAN, vqgan.hints),
    Family("open-magvit2", open_magvit2.recognises, open_magvit2.convert, open_magvit2.OpenMAGVIT2),
    DIFFUSERS,
)
"""Released families, in the order in which they are asked whether a file is theirs."""


def load_tokenizer(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tokenizer:
    """Any tokenizer behind the protocol, in `eval` mode.

    Args:
        name_or_path: whatever `OmniTokenizer.from_pretrained` takes; a released checkpoint of one of `FAMILIES`,
            recognised by its weights, or the folder that `omnitok convert` made of it; an autoencoder of diffusers, as
            `diffusers:FOLDER_OR_HUB_ID` or `diffusers:FOLDER_OR_HUB_ID#SUBFOLDER`.
        device, dtype: where and how the weights are kept.

    Raises:
        CheckpointError: an unknown name, or missing, corrupt, foreign or unreachable files, in one sentence.
        ValueError: a dtype that is not floating point.
    """
    check_dtype(dtype)
    return _load(os.fspath(name_or_path)).to(device, dtype).eval()


def _load(name: str) -> Tokenizer:
    if name.startswith(DIFFUSERS_PREFIX):
        return load_diffusers(name.removeprefix(DIFFUSERS_PREFIX))
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
        families = ", ".join(family.name for family in FAMILIES if family is not DIFFUSERS)
        raise CheckpointError(
            f"{files.weights}: holds no released model that is known: accepted are OmniTokenizer's and those of "
            f"{families} (a model of diffusers is {DIFFUSERS_PREFIX}FOLDER_OR_HUB_ID); its weights are "
            f"{listed(list(checkpoint.state_dict))}"
        )
    return released_tokenizer(files.weights, checkpoint)
