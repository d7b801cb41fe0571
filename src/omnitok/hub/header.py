"""What the files of a model say without loading it; nothing here imports torch.

A model is a folder of `config.json`, `model.safetensors` and `README.md`. Files may come from anywhere, so all of them
are read with suspicion and bounds.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from omnitok.errors import CheckpointError, describe, reading

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"

TOKENIZER = "OmniTokenizer"
KINDS = {
    TOKENIZER: "tokenizer",
    "LanguageModel": "language model",
    "MaskedModel": "masked model",
    "DiffusionTransformer": "diffusion",
}
"""What the field `architecture` of a configuration stands for."""

PEER = "PeerTokenizer"
"""What `architecture` says in the `config.json` of a converted tokenizer of another project."""

GENERATORS = tuple(name for name in KINDS if name != TOKENIZER)

MAX_CONFIG_BYTES = 2**20

MAX_LAYERS = 1000
"""What one field of a configuration may ask for in layers, blocks or levels; released ones stay below 50."""


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: one sentence that begins with the path.
    """
    path = Path(path)
    with reading(path, CheckpointError, "JSON file"):
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, which no configuration is")
        fields = json.loads(path.read_bytes())
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, found {type(fields).__name__}")
    return fields


def read_weight_map(path: Path) -> dict[str, str]:
    """Weight -> file beside the index that names both.

    Raises:
        CheckpointError: no JSON object, or one that names no files, or files elsewhere.
    """
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{path}: must have names of files in this folder under 'weight_map'")
    for file in files.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{path}: weight_map names {describe(file)!r}, which is no file beside it")
    return files


def check_layers(fields: Mapping[str, Any], where: str = "") -> None:
    """Refuse the configuration of another library's model that would take forever to build, before it is built.

    Args:
        fields: its fields; those of parts are mappings.
        where: what the message begins with.

    Raises:
        CheckpointError: a field asks for more than `MAX_LAYERS`.
    """
    for field, value in fields.items():
        if isinstance(value, Mapping):
            check_layers(value, where)
            continue
        counts = value if isinstance(value, list | tuple) else [value]
        if len(counts) > MAX_LAYERS or any(
            isinstance(count, int) and count > MAX_LAYERS and re.search("layers|blocks$", field) for count in counts
        ):
            raise CheckpointError(f"{where}field {field} asks for more than {MAX_LAYERS} layers: {describe(value)}")


def read_architecture(path: str | os.PathLike[str], accepted: tuple[str, ...] = tuple(KINDS)) -> dict[str, Any]:
    """The fields of a `config.json`, one of which is `architecture`.

    Raises:
        CheckpointError: no JSON object, or an architecture that is not accepted; one sentence that begins with the
            path.
    """
    fields = read_json(path)
    found = fields.get("architecture")
    if not isinstance(found, str) or found not in accepted:
        wanted = " or ".join(f"a {KINDS[name]} ({name!r})" for name in accepted)
        if isinstance(found, str) and found in KINDS:
            raise CheckpointError(f"{path}: describes a {KINDS[found]} ({found!r}), where {wanted} is wanted")
        quoted = repr(describe(found)) if isinstance(found, str) else describe(found)
        raise CheckpointError(f"{path}: field architecture is {quoted}, where {wanted} is wanted")
    return fields


def read_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the header of a safetensors file, whose sizes are checked against the file's.

    Raises:
        CheckpointError: one sentence that begins with the path.
    """
    with reading(path, CheckpointError, "safetensors file"), safe_open(path, framework="np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)


def split_card(card: str) -> tuple[str, str]:
    """The YAML metadata of a card, "" where it has none, and its text."""
    lines = card.splitlines(keepends=True)
    fences = [number for number, line in enumerate(lines) if line.strip() == "---"][:2]
    if len(fences) < 2 or fences[0] != 0:
        return "", card
    return "".join(lines[1 : fences[1]]), "".join(lines[fences[1] + 1 :])


def first_sentence(card: Path) -> str:
    """The first line of prose of a model card; "" without one."""
    if not card.is_file():
        return ""
    _, text = split_card(card.read_text(encoding="utf-8", errors="replace"))
    lines = text.splitlines()
    prose = (line.strip() for line in lines if line.strip() and not line.startswith(("#", "|", "!", "<", "```", "---")))
    return next(prose, "")
