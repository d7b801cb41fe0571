"""Animations through Pillow as videos."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from omnitok.data.image import ImageReader, TimedFrame, count_frames, decode_image, is_animated, require_image
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.errors import MediaError, reading
from omnitok.limits import MAX_ANIMATION_PIXELS, MAX_PIXELS

_LEAST_FRAME_PIXELS = 2**15  # what the overhead of a frame of an animation costs
_TIMED_FRAMES, _TIMED_PIXELS = 240, 2**28  # of an animation, of which its rate is the average


class AnimatedImage:
    """An image file as a video: every frame of a GIF, animated WebP, APNG or AVIF, or the one frame of a still.

    Frames have their own durations; one of 10 ms or less counts as 100 ms, as browsers do.
    """

    has_audio = False

    def __init__(self, path: Path, pixel_format: PixelFormat = RGB) -> None:
        self.path, self._format = path, pixel_format
        with ImageReader(path, whole=True, pixel_format=pixel_format) as reader:
            image = reader.image
            self.dtype = reader.dtype
            self.is_still = not is_animated(path, image)
            self.frame_count: int | None = 1 if self.is_still else count_frames(path, image)
            area, what = image.width * image.height, f"{path}: an animation of {image.width}x{image.height} pixels"
            if not self.is_still:  # several frames are held at a time, and a few bytes ask for them
                MAX_PIXELS.check(4 * area, f"{what}, which count four times,", MediaError)
            pixels = self.frame_count * max(area, _LEAST_FRAME_PIXELS)
            counted = f"{what} and {self.frame_count} frames, which count as {pixels} pixels,"
            MAX_ANIMATION_PIXELS.check(pixels, counted, MediaError)
            self.height, self.width = decode_image(path, next(self._frames(image))).shape[-2:]
            timed = itertools.islice(
                self._frames(image), min(_TIMED_FRAMES, 2 + _TIMED_PIXELS * self.frame_count // pixels)
            )
            with reading(path, MediaError, "animation"):
                durations = [1.0] if self.is_still else [_duration(frame) for frame in timed]
        self.fps = len(durations) / sum(durations)
        self.duration: float | None = self.frame_count / self.fps

    def _frames(self, image: Image.Image) -> Iterator[Image.Image]:
        if self.is_still:
            yield image
            return
        first = 1 if image.format == "PNG" and image.info.get("default_image") else 0  # where APNG is not understood
        for index in range(first, first + (self.frame_count or 0)):
            with reading(self.path, MediaError, "animation"):
                image.seek(index)
            yield image

    def decode(self, start: float) -> Iterator[TimedFrame]:
        """Every frame that does not end before `start` seconds."""
        with require_image(self.path) as image:
            time = 0.0
            for frame in self._frames(image):
                with reading(self.path, MediaError, "animation"):
                    duration = 1.0 if self.is_still else _duration(frame)
                if time + duration > start:
                    pixels = decode_image(self.path, frame, None, self._format)
                    yield TimedFrame(time, duration, pixels.clone)
                time += duration


def _duration(frame: Image.Image) -> float:
    if frame.format == "WEBP" or frame.format == "AVIF":
        frame.load()  # their durations are known only after decoding
    milliseconds = float(frame.info.get("duration", 0))
    return (milliseconds if milliseconds > 10 else 100.0) / 1000
