"""The embeddings that `omnitok tokenize` keeps beside tokens: of files, of a video's own sound, of captions.

Files and sound are read where pixels are read; captions are embedded where pixels are encoded, all of a group together,
so that nothing depends on the number of processes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from omnitok.data.embeddings import AUDIO, FILES, KEY, SUFFIX, TEXT, pack_embeddings
from omnitok.data.log_mel import MELS, log_mel
from omnitok.data.modality import MODALITIES
from omnitok.data.samples import Index, Sample
from omnitok.data.shard_format import EmbeddingFormat, TokenRecord
from omnitok.data.shard_writing import Token
from omnitok.data.video_reader import VideoReader
from omnitok.errors import MediaError, OmnitokError
from omnitok.hub.text_encoders import TextEncoder, load_text_encoder


def open_source(
    source: str, collection: Index, device: torch.device | str
) -> tuple[EmbeddingFormat, TextEncoder | None]:
    """What the embeddings of a collection will be, and the text encoder, where there is one.

    The width of files is that of the first one that can be read, so that it is the same for every process.

    Raises:
        OmnitokError: nothing in the collection has embeddings, or the text encoder cannot be loaded.
    """
    if source.startswith(TEXT):
        encoder = load_text_encoder(source.removeprefix(TEXT), device)
        return EmbeddingFormat(source=source, width=encoder.width, sha256=encoder.sha256), encoder
    width = MELS if source == AUDIO else _width_of_files(collection)
    return EmbeddingFormat(source=source, width=width), None


def load_encoder(format: EmbeddingFormat | None, device: torch.device | str) -> TextEncoder | None:
    """The text encoder of a plan, in another process.

    Raises:
        CheckpointError: it cannot be loaded, or has other weights.
    """
    if format is None or not format.source.startswith(TEXT):
        return None
    return load_text_encoder(format.source.removeprefix(TEXT), device, sha256=format.sha256)


def _width_of_files(collection: Index) -> int:
    first_error = ""
    for sample in (sample for modality in MODALITIES for sample in collection[modality]):
        try:
            if not sample.error and (found := sample.read_embedding()) is not None:
                return found.shape[1]
        except MediaError as error:
            first_error = first_error or str(error)
    raise OmnitokError(
        first_error
        or f"no file of the collection has embeddings: tables name them in a column {KEY!r}, else they are in "
        f"a{SUFFIX} beside a.jpg"
    )


def given_embeddings(format: EmbeddingFormat | None, sample: Sample) -> tuple[np.ndarray, ...]:
    """The sequence that a file gives for a sample, where the source is files and there is one.

    Raises:
        MediaError: it cannot be read or has another width than the collection's.
    """
    if format is None or format.source != FILES or (found := sample.read_embedding()) is None:
        return ()
    if found.shape[1] != format.width:
        raise MediaError(
            f"{sample.name}: its embeddings are of width {found.shape[1]}, the first ones of the collection of "
            f"{format.width}"
        )
    return (pack_embeddings(found, sample.name),)


class Sound:
    """The sound of a video as embeddings of its windows; see `omnitok.data.log_mel`.

    Args:
        path: of the video.
        reader: of its frames, which tells when each is shown.
        latent_frames: frames of the first latent frame, and of each later one.
    """

    def __init__(self, path: str, reader: VideoReader, latent_frames: tuple[int, int]) -> None:
        self._path, self._reader = path, reader
        self._first, self._stride = latent_frames

    def during(self, record: TokenRecord) -> tuple[np.ndarray, ...]:
        """What is heard during a window that has been read; nothing where the video has no sound track.

        Raises:
            MediaError: it cannot be decoded, or is longer than one sequence may be.
        """
        if not self._reader.has_audio:
            return ()
        later = max(0, -(-(record.size[0] - self._first) // self._stride))  # latent frames after the first
        frames = [0, *(self._first + i * self._stride for i in range(later + 1))]
        begins = np.cumsum([0.0, *self._reader.durations])
        edges = [self._time(begins, record.start + frame) for frame in frames]
        return (pack_embeddings(log_mel(self._path, edges).numpy(), self._path),)

    def _time(self, begins: np.ndarray, frame: int) -> float:
        """When a frame is shown; of those after the last one, as if the video went on."""
        last = len(begins) - 1
        return float(begins[min(frame, last)]) + max(0, frame - last) / self._reader.fps


def embed_captions(tokens: Sequence[Token], encoder: TextEncoder) -> list[Token]:
    """The items with a sequence for each of their captions; texts that are too long are cut, with a warning."""
    texts = list(dict.fromkeys(caption for token in tokens for caption in token.record.captions))
    packed = [pack_embeddings(found.numpy(), encoder.name) for found in encoder.encode(texts, cut=True)]
    of_text = dict(zip(texts, packed, strict=True))
    return [replace(token, embeddings=tuple(map(of_text.__getitem__, token.record.captions))) for token in tokens]
