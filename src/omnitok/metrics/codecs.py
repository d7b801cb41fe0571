"""The codecs that everybody knows, at several rates: reference curves for tokenizers."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, cast

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.codeccontext import VideoCodecContext
from PIL import Image
from torch import Tensor

from omnitok.data.modality import Modality
from omnitok.errors import OmnitokError
from omnitok.metrics.evaluate import EvaluationConfig
from omnitok.metrics.samples import from_uint8, to_uint8

Kind = Literal["JPEG", "H.264", "AV1"]
RATES: dict[Modality, dict[Kind, tuple[int, ...]]] = {
    "image": {"JPEG": (5, 10, 20, 40, 60, 80, 92)},  # quality
    "video": {"H.264": (48, 42, 36, 30, 24, 18), "AV1": (63, 55, 47, 39, 31, 23)},  # constant rate factor
}
"""Modality -> codec -> its settings, from the smallest files to the largest."""

# Encoder, decoder, options
_VIDEO = {
    "H.264": ("libx264", "h264", {"preset": "medium"}),
    "AV1": ("libsvtav1", "libdav1d", {"preset": "8"}),
}
_LEAST_SIDE = 64  # of SVT-AV1
_FPS = Fraction(25)


@dataclass
class Codec:
    """A codec at one setting, as a `Coder`. `bits` are those of each image or video so far, without a container."""

    kind: Kind
    setting: int
    bits: list[int] = field(default_factory=list)
    sha256: str = ""
    vocab_size: int = 0

    @property
    def modality(self) -> Modality:
        """What it codes."""
        return "image" if self.kind == "JPEG" else "video"

    @property
    def name(self) -> str:
        """Such as "JPEG 40"."""
        return f"{self.kind} {self.setting}"

    def reconstruct(self, pixels: Tensor, indices: Sequence[int], config: EvaluationConfig) -> tuple[Tensor, None]:
        """See `Coder`; rounded to 8 bits before and after.

        Raises:
            OmnitokError: this build of FFmpeg does not have the codec.
        """
        code = self._jpeg if self.kind == "JPEG" else self._video
        return from_uint8(torch.stack([code(sample) for sample in to_uint8(pixels)])), None

    def _jpeg(self, image: Tensor) -> Tensor:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=self.setting, optimize=True)
        self.bits.append(8 * buffer.tell())
        return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)

    def _video(self, video: Tensor) -> Tensor:
        """uint8 (3, T, H, W), 4:2:0 in between; the last rows and columns are repeated to an even size."""
        encoder, decoder, options = _VIDEO[self.kind]
        _, frames, height, width = video.shape
        padding = (0, max(width % 2, _LEAST_SIDE - width), 0, max(height % 2, _LEAST_SIDE - height))
        padded = F.pad(video.float(), padding, mode="replicate").byte().permute(1, 2, 3, 0).contiguous().numpy()
        os.environ.setdefault("SVT_LOG", "1")  # errors only; it would write to stderr
        try:
            writer = cast(VideoCodecContext, av.CodecContext.create(encoder, "w"))
            writer.height, writer.width = padded.shape[1:3]
            writer.pix_fmt, writer.framerate = "yuv420p", _FPS
            writer.options = {"crf": str(self.setting), **options}
            packets = []
            for number, frame in enumerate(padded):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
                picture.pts = number
                packets += writer.encode(picture)
            packets += writer.encode(None)
            reader = cast(VideoCodecContext, av.CodecContext.create(decoder, "r"))
            decoded = [frame for packet in [*packets, None] for frame in reader.decode(packet)]
        except (av.error.FFmpegError, ValueError) as error:
            raise OmnitokError(f"{self.kind}: PyAV cannot code {frames} frames with it: {error}") from error
        self.bits.append(8 * sum(packet.size for packet in packets))
        pixels = np.stack([frame.to_ndarray(format="rgb24")[:height, :width] for frame in decoded])
        return torch.from_numpy(pixels).permute(3, 0, 1, 2)
