"""Images and videos, told apart by the suffixes of their names, or by what is in them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from omnitok.data.arrays import TIFF_SUFFIXES, holds_video
from omnitok.data.containers import VideoFile
from omnitok.data.frame_folder import FrameFolder
from omnitok.data.image import IMAGE_SUFFIXES, is_animated, open_image, require_file, require_image
from omnitok.data.video_reader import VIDEO_SUFFIXES

Modality = Literal["image", "video"]
MODALITIES: tuple[Modality, ...] = ("image", "video")

_ANIMATIONS = frozenset({".gif", ".webp", ".apng", ".avif"})


def modality_of(name: str, wanted: Sequence[Modality] = MODALITIES, arrays: bool = True) -> Modality | None:
    """Image or video by suffix, None where neither is wanted; where only videos are, an animation is one.

    Args:
        arrays: whether `.npy` is one of them: as its header says where there is a file of that name and both are
            wanted.
    """
    suffix = os.path.splitext(name)[1].lower()
    if suffix == ".npy" and arrays and wanted:
        return wanted[0] if len(wanted) == 1 else "video" if holds_video(name) else "image"
    if suffix in VIDEO_SUFFIXES or (suffix in _ANIMATIONS and "image" not in wanted):
        return "video" if "video" in wanted else None
    return "image" if suffix in IMAGE_SUFFIXES and "image" in wanted else None


def detect_modality(path: str | os.PathLike[str]) -> Modality:
    """Whether a file is an image or a video: videos by their suffix, GIF, WebP, PNG, AVIF and `.npy` by their content.

    Raises:
        MediaError: missing, empty, unreadable, or neither by suffix nor by content.
    """
    if os.path.isdir(path):
        FrameFolder(Path(path))
        return "video"
    path = require_file(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "video"
    if path.suffix.lower() == ".npy":
        return "video" if holds_video(path) else "image"
    is_tiff = path.suffix.lower() in TIFF_SUFFIXES
    image = require_image(path) if path.suffix.lower() in IMAGE_SUFFIXES and not is_tiff else open_image(path)
    if image is not None:
        with image:
            return "video" if is_animated(path, image) else "image"
    if is_tiff:  # of bands that Pillow does not know
        return "image"
    VideoFile(path)
    return "video"
