"""Token files: the codes or latents of one picture or clip as `.safetensors`, with what is needed to bring it back.

One tensor, `codes` (t, h, w) or (h, w), or `latents` (c, t, h, w) or (c, h, w), and string metadata: `format`,
`version`, `kind` (image or video), `frames`, `height`, `width`, `fps` (clips), `model`, `model_sha256` (of its float32
weights), `source` (the input's file name).
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.cli.naming import reconstruction_suffix
from omnitok.errors import CheckpointError, MediaError, OmnitokError
from omnitok.models.autoencoder import TokenizerConfig

FORMAT, VERSION = "omnitok-tokens", "1"


@dataclass(frozen=True)
class TokenHeader:
    """What a token file says about its tokens."""

    kind: str  # "image" or "video"
    frames: int
    height: int
    width: int
    fps: float | None  # of a clip
    model: str
    model_sha256: str
    source: str


def write_tokens(path: Path, tokens: Tensor, header: TokenHeader) -> None:
    """Write codes (integers) or latents (floating point), atomically.

    Raises:
        OmnitokError: the file cannot be written; nothing is left under its name.
    """
    name = "latents" if tokens.is_floating_point() else "codes"
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "kind": header.kind,
        "frames": str(header.frames),
        "height": str(header.height),
        "width": str(header.width),
        "model": header.model,
        "model_sha256": header.model_sha256,
        "source": os.fsencode(header.source).decode("utf-8", "backslashreplace"),
    }
    if header.fps is not None:
        metadata["fps"] = repr(header.fps)
    try:
        with atomic_path(path) as temporary:
            save_file({name: tokens.contiguous()}, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error


def compact_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """The same codes in the smallest signed integers that hold the codebook's."""
    for dtype in (torch.int16, torch.int32):
        if codebook_size - 1 <= torch.iinfo(dtype).max:
            return codes.to(dtype)
    return codes


class TokenFile:
    """An open token file whose header and shape were checked; made by `open_tokens`."""

    def __init__(self, path: Path, header: TokenHeader, tensor: Any, is_codes: bool) -> None:
        self.path, self.header, self._tensor, self._is_codes = path, header, tensor, is_codes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor in the file."""
        return tuple(self._tensor.get_shape())

    def check_for(self, config: TokenizerConfig, model: str, model_sha256: str) -> None:
        """Refuse tokens that are not this model's, or that do not fit what the header says.

        Raises:
            CheckpointError: with both models' names and hashes, or both shapes.
        """
        header = self.header
        if header.model_sha256 not in (model_sha256, *config.tokens_of):
            raise CheckpointError(
                f"{self.path}: its tokens are of the model {header.model!r} (weights {header.model_sha256}), not of "
                f"{model!r} (weights {model_sha256}): give the model that made them with --model"
            )
        if self._is_codes != (config.bottleneck == "vq"):
            found, wanted = ("codes", "latents") if self._is_codes else ("latents", "codes")
            raise CheckpointError(f"{self.path}: holds {found}, but {model!r} decodes {wanted}")
        grid = config.latent_shape(header.frames, header.height, header.width)
        expected = grid if header.kind == "video" else grid[1:]
        if not self._is_codes:
            expected = (config.latent_channels, *expected)
        if self.shape != expected:
            size = f"{header.frames} frames of {header.width}x{header.height}"
            raise CheckpointError(f"{self.path}: {size} need tokens of shape {expected}, found {self.shape}")

    def picture(self) -> Tensor:
        """Codes (h, w) or float32 latents (c, h, w)."""
        return self._checked(self._tensor[:])

    def pieces(self, latent_frames: int) -> Iterator[Tensor]:
        """Codes (1, n, h, w) or float32 latents (1, c, n, h, w) of a clip, so many latent frames at a time."""
        total = self.shape[0 if self._is_codes else 1]
        for start in range(0, total, latent_frames):
            stop = min(start + latent_frames, total)
            part = self._tensor[start:stop] if self._is_codes else self._tensor[:, start:stop]
            yield self._checked(part)[None]

    def _checked(self, tokens: Tensor) -> Tensor:
        if self._is_codes:
            return tokens
        if not torch.isfinite(tokens).all():
            raise CheckpointError(f"{self.path}: the latents hold NaN or infinite values")
        return tokens.float()


@contextmanager
def open_tokens(path: Path) -> Iterator[TokenFile]:
    """Open a token file and check its header.

    Raises:
        CheckpointError: missing, corrupt, truncated, or a safetensors file of something else.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: " + ("is a folder, a token file is wanted" if path.is_dir() else "no such file")
        )
    try:
        handle = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or a truncated or corrupt one ({error})") from error
    with handle:
        names = list(handle.keys())
        header = _parse(path, handle.metadata() or {}, names)
        is_codes = names[0] == "codes"
        tensor = handle.get_slice(names[0])
        _check_tensor(path, header, is_codes, tensor.get_dtype(), len(tensor.get_shape()))
        yield TokenFile(path, header, tensor, is_codes)


def _check_tensor(path: Path, header: TokenHeader, is_codes: bool, dtype: str, rank: int) -> None:
    accepted = ("I16", "I32", "I64") if is_codes else ("F16", "BF16", "F32")
    wanted = (2 if is_codes else 3) + (header.kind == "video")
    if dtype not in accepted or rank != wanted:
        what = f"{'codes' if is_codes else 'latents'} of a {header.kind}"
        raise CheckpointError(
            f"{path}: {what} must be {' or '.join(accepted)} of rank {wanted}, found {dtype} of rank {rank}"
        )


def _parse(path: Path, metadata: dict[str, str], names: list[str]) -> TokenHeader:
    if metadata.get("format") != FORMAT or names not in (["codes"], ["latents"]):
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise CheckpointError(
            f"{path}: a safetensors file, but not tokens that `omnitok encode` wrote (it holds {listed})"
        )
    if metadata.get("version") != VERSION:
        raise CheckpointError(f"{path}: token format version {metadata.get('version')!r}; this omnitok reads {VERSION}")
    try:
        frames, height, width = (int(metadata[key]) for key in ("frames", "height", "width"))
        fps = float(metadata["fps"]) if metadata["kind"] == "video" else None
        header = TokenHeader(
            metadata["kind"],
            frames,
            height,
            width,
            fps,
            metadata["model"],
            metadata["model_sha256"],
            metadata["source"],
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: the metadata is incomplete or damaged ({error!r})") from error
    is_sensible = header.kind in ("image", "video") and min(frames, height, width) >= 1
    if not is_sensible or (header.kind == "image" and frames != 1) or (fps is not None and not (0 < fps < math.inf)):
        raise CheckpointError(
            f"{path}: the metadata makes no sense: {header.kind!r} of {frames} frames, {width}x{height}, fps {fps}"
        )
    return header


def kind_of_tokens(path: Path) -> str:
    """ "image" or "video".

    Raises:
        CheckpointError: not a token file.
    """
    with open_tokens(path) as file:
        return file.header.kind


def result_suffix(kind: str, path: Path) -> str:
    """As for a reconstruction of the source that the file names."""
    with open_tokens(path) as file:
        return reconstruction_suffix(kind, Path(file.header.source))


def token_files(path: Path) -> list[Path]:
    """The path itself, or for a folder every `.safetensors` in it.

    Raises:
        OmnitokError: no such path, or a folder without any.
    """
    if not path.exists():
        raise OmnitokError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*.safetensors") if not file.name.startswith("."))
    if not files:
        raise OmnitokError(f"{path}: the folder has no .safetensors files")
    return files
