"""Frozen text encoders of transformers (extra `hf`), whose embeddings a generator can be conditioned on."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitok.atomic import sha256_of
from omnitok.errors import CheckpointError, MissingExtraError, describe, reading
from omnitok.hub.header import CONFIG_NAME, WEIGHTS_NAME, check_layers, read_json, read_weight_map
from omnitok.hub.names import HUB_ID, from_hub

ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
}
"""`model_type` of a config.json -> the class of transformers that reads it; of whole models only the text's part."""

LONGEST = 512
"""Tokens of a text, where neither the model nor its tokenizer says less."""

INDEX_NAME = "model.safetensors.index.json"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
_TOKENIZER_FILES = (
    *(*_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("preprocessor_config.json", "processor_config.json"),
)


class TextEncoder:
    """Texts to sequences of embeddings, by a network that is never trained here.

    Attributes:
        name: folder or hub id.
        width: d, of an embedding.
        max_length: tokens of the longest text, those of its end included.
        sha256: of the weights, which tell cached embeddings of different encoders apart.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, max_length: int, sha256: str) -> None:
        self.name, self.max_length, self.sha256 = name, max_length, sha256
        self.width = int(model.config.hidden_size)
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer

    def encode(self, texts: Sequence[str], *, cut: bool = False, batch_size: int = 32) -> list[Tensor]:
        """The last hidden states of each text, float32 (n, width) on the CPU, n its own number of tokens.

        Args:
            texts: any; the empty one has at least the token of its end.
            cut: leave out what a text has beyond `max_length` tokens, with a warning that says how many were cut.
            batch_size: texts at a time.

        Raises:
            ValueError: a text of more tokens, without `cut`.
        """
        rows = [self._tokens(text) for text in texts]
        long = [(text, row) for text, row in zip(texts, rows, strict=True) if len(row) > self.max_length]
        if long and not cut:
            text, row = long[0]
            raise ValueError(
                f"a text may have {self.max_length} tokens for {self.name}, found {len(row)}: {describe(text, 60)!r}"
            )
        if long:
            warnings.warn(f"{self.name}: {len(long)} texts are cut to {self.max_length} tokens", stacklevel=2)
            # The last token tells the end, and CLIP and T5 were trained with it.
            rows = [row if len(row) <= self.max_length else [*row[: self.max_length - 1], row[-1]] for row in rows]
        embeddings: list[Tensor] = []
        for begin in range(0, len(rows), batch_size):
            embeddings += self._embed(rows[begin : begin + batch_size])
        return embeddings

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])

    @torch.no_grad()
    def _embed(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        # Padded by ourselves: not every tokenizer has a token for it, and none is seen through the mask.
        ids = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)], mask[index, : len(row)] = torch.tensor(row, dtype=torch.int64), 1
        device = self._model.device
        hidden = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        return [states[: len(row)].float().cpu() for states, row in zip(hidden, rows, strict=True)]


def load_text_encoder(
    name: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    sha256: str = "",
) -> TextEncoder:
    """A text encoder from a folder or a repository of the hub: T5, mT5 and UMT5, or the text's part of CLIP.

    Only configurations, tokenizers and `.safetensors` are read: no pickle, and no code that a repository brings.

    Args:
        sha256: that its weights must have, where it is known.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: no such folder or repository, no safetensors, another architecture, weights that are missing,
            a tokenizer that cannot be read, or other weights than those of `sha256`.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError.of("transformers") from error
    folder = model_folder(name)
    fields = read_json(folder / CONFIG_NAME)
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in ENCODERS:
        raise CheckpointError(
            f"{folder}: model_type is {describe(kind)}, where a text encoder is one of {', '.join(ENCODERS)}"
        )
    check_layers(fields, f"{folder / CONFIG_NAME}: ")
    model, tokenizer = load_pretrained(folder, getattr(transformers, ENCODERS[kind]), transformers.AutoTokenizer)
    positions = getattr(model.config, "max_position_embeddings", LONGEST)
    longest = min(int(positions), int(tokenizer.model_max_length), LONGEST)
    found = weights_sha256(folder)
    if sha256 and found != sha256:
        raise CheckpointError(f"{name}: the text encoder has weights {found}, not {sha256}")
    return TextEncoder(str(name), model.to(device), tokenizer, longest, found)


def model_folder(name: str | os.PathLike[str]) -> Path:
    """A folder with a model of transformers, from the hub's cache where it is no folder here.

    Raises:
        CheckpointError: neither; one sentence.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / CONFIG_NAME).is_file():
            raise CheckpointError(f"{folder}: holds no {CONFIG_NAME}; a model of transformers is a folder with one")
        weights_in(folder)
        return folder
    if folder.exists() or not HUB_ID.fullmatch(str(name)) or folder.parent.is_dir():
        raise CheckpointError(f"{name}: no such folder; give that of a model of transformers, or a hub id (owner/name)")
    folder = from_hub(str(name), CONFIG_NAME).parent
    for optional in _TOKENIZER_FILES:
        with contextlib.suppress(CheckpointError):
            from_hub(str(name), optional)
    try:
        from_hub(str(name), WEIGHTS_NAME)
    except CheckpointError:
        with contextlib.suppress(CheckpointError):
            from_hub(str(name), INDEX_NAME)
            for part in _parts(folder):
                from_hub(str(name), part)
    weights_in(folder)
    return folder


def weights_in(folder: Path) -> list[Path]:
    """The files of the weights.

    Raises:
        CheckpointError: there are none, or a part is missing.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    if not (folder / INDEX_NAME).is_file():
        raise CheckpointError(f"{folder}: holds no {WEIGHTS_NAME}; weights in other formats are not read")
    files = [folder / part for part in _parts(folder)]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: is missing, which {INDEX_NAME} names")
    return files


def _parts(folder: Path) -> list[str]:
    parts = sorted(set(read_weight_map(folder / INDEX_NAME).values()))
    for part in parts:
        if not part.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX_NAME}: names {describe(part)!r}, which is no .safetensors")
    return parts


def weights_sha256(folder: Path) -> str:
    """The SHA-256 of the file of weights; of several, that of their hashes."""
    hashes = [sha256_of(file) for file in weights_in(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def load_pretrained(folder: Path, model_class: Any, processor_class: Any) -> tuple[Any, Any]:
    """A model of transformers with all of its weights, in float32, and its tokenizer or processor.

    Raises:
        CheckpointError: one of them cannot be read, or weights are missing.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):  # the library would make an empty one up
        raise CheckpointError(f"{folder}: holds no vocabulary ({' or '.join(_VOCABULARIES)})")
    local = {"local_files_only": True, "trust_remote_code": False}
    with _quiet():
        with reading(folder, CheckpointError, "model of transformers"):
            model, info = model_class.from_pretrained(
                folder,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **local,
            )
        with reading(folder, CheckpointError, "tokenizer of transformers"):
            processor = processor_class.from_pretrained(folder, **local)
    # The library gives random values to what is missing or has another shape.
    for problem, what in (("missing_keys", "lack"), ("mismatched_keys", "have other shapes for")):
        if names := sorted(str(key if isinstance(key, str) else key[0]) for key in info[problem]):
            raise CheckpointError(f"{folder}: the weights {what} {len(names)} tensors, such as {describe(names[0])}")
    return model, processor


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars and its report of the weights that are left out, which are those of other parts."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
