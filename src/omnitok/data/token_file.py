"""Token files: the codes or latents of one image or video as `.safetensors`, with what is needed to bring it back.

One tensor, `codes` (t, h, w) or (h, w), or `latents` (c, t, h, w) or (c, h, w); for a video also `durations` (frames,),
seconds that each frame is shown, where its file has them, and `sound` (bytes,), its sound track as a Matroska file; and
the fields of `TokenHeader` as string metadata.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnitok.atomic import atomic_path, scratch_folder
from omnitok.checked import checked
from omnitok.data.containers import SOUND_SUFFIX
from omnitok.data.pixel_format import NumberType, RangesField, format_ranges
from omnitok.errors import CheckpointError, MediaError, describe, reading, reason
from omnitok.files import localize, require_regular

FORMAT, VERSION = "omnitok-tokens", "1"
SUFFIX = ".safetensors"

_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


@checked
class TokenHeader:
    """What a token file says about its tokens.

    Attributes:
        kind: the modality.
        frames, height, width: of the pixels; an image has one frame.
        model: name or path of the tokenizer.
        model_sha256: fingerprint of its float32 weights.
        source: name of the file that was encoded.
        fps: frames per second of a video.
        dtype, ranges: how the source holds its numbers (see `omnitok.data.arrays.numbers_of`); None where it is an
            ordinary image or video.
    """

    kind: Literal["image", "video"]
    frames: _Count
    height: _Count
    width: _Count
    model: str
    model_sha256: str
    source: str
    fps: Annotated[float, Field(ge=1e-3, le=1e5)] | None = None
    dtype: NumberType | None = None
    ranges: RangesField = ()

    @model_validator(mode="after")
    def _check(self) -> "TokenHeader":
        if self.kind == "image" and self.frames != 1:
            raise ValueError(f"frames of an image must be 1, found {self.frames}")
        if self.kind == "video" and self.fps is None:
            raise ValueError("fps of a video is missing")
        return self


def write_tokens(
    path: str | os.PathLike[str],
    tokens: Tensor,
    header: TokenHeader,
    durations: Sequence[float] | None = None,
    sound: bytes | None = None,
) -> None:
    """Write codes (integers) or latents (floating point), the seconds that each frame is shown, and sound, atomically.

    Raises:
        MediaError: the file cannot be written; nothing is left under its name.
    """
    tensors = {"latents" if tokens.is_floating_point() else "codes": tokens.contiguous()}
    if durations is not None:
        tensors["durations"] = torch.tensor(durations, dtype=torch.float64)
    if sound is not None:
        tensors["sound"] = torch.frombuffer(bytearray(sound), dtype=torch.uint8)
    fields = {name: value for name, value in dataclasses.asdict(header).items() if value not in (None, ())}
    if header.ranges:
        fields["ranges"] = format_ranges(header.ranges)
    metadata = {"format": FORMAT, "version": VERSION, **{name: _text(value) for name, value in fields.items()}}
    try:
        with atomic_path(path, apart=True) as temporary:
            save_file(tensors, temporary, metadata)
    except Exception as error:  # safetensors has exceptions of its own for what the system says
        raise MediaError(f"{describe(os.fspath(path), 4096)}: cannot be written: {reason(error)}") from error


def _text(value: object) -> str:
    """A field as metadata, which is UTF-8; names of files and models need not be."""
    return os.fsencode(value).decode("utf-8", "backslashreplace") if isinstance(value, str) else repr(value)


def compact_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """The same codes in the smallest signed integers that hold the codebook's."""
    for dtype in (torch.int16, torch.int32):
        if codebook_size - 1 <= torch.iinfo(dtype).max:
            return codes.to(dtype)
    return codes


class TokenFile:
    """An open token file, whose header and shape are checked; made by `open_tokens`.

    Attributes:
        path, header: of the file.
        is_codes: whether it holds codes; else latents.
        durations: seconds that each frame is shown; None where all are shown alike, 1 / fps.
    """

    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        metadata, names = handle.metadata() or {}, set(handle.keys())
        (name, *more) = sorted(names - {"durations", "sound"}) or [""]
        if metadata.pop("format", None) != FORMAT or name not in ("codes", "latents") or more:
            listed = describe(", ".join(sorted(names))) or "nothing"
            raise CheckpointError(
                f"{path}: a safetensors file, but not tokens that `omnitok encode` wrote (it holds {listed})"
            )
        version = metadata.pop("version", None)
        if version != VERSION:
            raise CheckpointError(f"{path}: token format version {describe(version)}; this omnitok reads {VERSION}")
        try:
            self.header = header = TokenHeader(**metadata)
        except ValueError as error:
            raise CheckpointError(f"{path}: its metadata makes no sense: {error}") from error
        self._tensor, self.is_codes = handle.get_slice(name), name == "codes"
        accepted = ("I16", "I32", "I64") if self.is_codes else ("F16", "BF16", "F32")
        rank = (2 if self.is_codes else 3) + (header.kind == "video")
        if self._tensor.get_dtype() not in accepted or len(self.shape) != rank:
            raise CheckpointError(
                f"{path}: {name} of one {header.kind} must be {' or '.join(accepted)} of rank {rank}, found "
                f"{self._tensor.get_dtype()} of rank {len(self.shape)}"
            )
        self.durations: list[float] | None = None
        if "durations" in names:
            seconds = handle.get_slice("durations")
            if seconds.get_dtype() != "F64" or seconds.get_shape() != [header.frames]:
                raise CheckpointError(f"{path}: durations must be F64 of {header.frames} frames")
            self.durations = seconds[:].tolist()
            if not all(0 <= duration <= 1e6 for duration in self.durations):
                raise CheckpointError(f"{path}: durations must lie between 0 and 1000000 seconds")
        self._sound = sound = handle.get_slice("sound") if "sound" in names else None
        if sound is not None and (sound.get_dtype() != "U8" or len(sound.get_shape()) != 1 or header.kind != "video"):
            raise CheckpointError(f"{path}: sound must be U8 of rank 1, of a video")

    @contextmanager
    def sound(self) -> Iterator[Path | None]:
        """The sound track as a file, within the context; None where there is none."""
        if self._sound is None:
            yield None
            return
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
            path = Path(folder, f"sound{SOUND_SUFFIX}")
            path.write_bytes(self._sound[:].numpy().data)
            yield path

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor in the file."""
        return tuple(self._tensor.get_shape())

    def tokens(self) -> Tensor:
        """Codes (h, w) or float32 latents (c, h, w) of an image."""
        return self._checked(self._tensor[:])

    def pieces(self, latent_frames: int) -> Iterator[Tensor]:
        """Codes (1, n, h, w) or float32 latents (1, c, n, h, w) of a video, so many latent frames at a time."""
        for start in range(0, self.shape[0 if self.is_codes else 1], latent_frames):
            part = slice(start, start + latent_frames)
            yield self._checked(self._tensor[part] if self.is_codes else self._tensor[:, part])[None]

    def _checked(self, tokens: Tensor) -> Tensor:
        if self.is_codes:
            return tokens
        if not torch.isfinite(tokens).all():
            raise CheckpointError(f"{self.path}: the latents hold NaN or infinite values")
        return tokens.float()


@contextmanager
def open_tokens(path: str | os.PathLike[str]) -> Iterator[TokenFile]:
    """Open a token file and check its header.

    Raises:
        CheckpointError: missing, corrupt, truncated, or a safetensors file of something else.
    """
    path, local = Path(path), localize(path)
    require_regular(local, "a token file", CheckpointError)
    with _utf8_name(local) as name:
        with reading(path, CheckpointError, "token file"):
            handle = safe_open(name, framework="pt")
        with handle:
            with reading(path, CheckpointError, "token file"):
                file = TokenFile(path, handle)
            yield file


@contextmanager
def _utf8_name(path: Path) -> Iterator[Path]:
    """The path; where it is not UTF-8, which safetensors insists on, that of a link to it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
            link = Path(folder, "tokens")
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path
