"""Images and videos, told apart by the suffixes of their names."""

import os
from collections.abc import Sequence
from typing import Literal

from omnitok.data.image import IMAGE_SUFFIXES
from omnitok.data.video_reader import VIDEO_SUFFIXES

Modality = Literal["image", "video"]
MODALITIES: tuple[Modality, ...] = ("image", "video")

_ANIMATIONS = frozenset({".gif", ".webp", ".apng", ".avif"})


def modality_of(name: str, wanted: Sequence[Modality] = MODALITIES) -> Modality | None:
    """Image or video by suffix, None where neither is wanted; where only videos are, an animation is one."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in VIDEO_SUFFIXES or (suffix in _ANIMATIONS and "image" not in wanted):
        return "video" if "video" in wanted else None
    return "image" if suffix in IMAGE_SUFFIXES and "image" in wanted else None
