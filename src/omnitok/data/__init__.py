"""Images and videos read and written, indexes of them, batches and token shards."""

from omnitok.data.arrays import read_image_array, read_video_array
from omnitok.data.image import IMAGE_SUFFIXES, WRITTEN_IMAGE_SUFFIXES, read_image, write_image
from omnitok.data.index import list_media
from omnitok.data.modality import detect_modality
from omnitok.data.pil import to_pil, to_pixels
from omnitok.data.pixel_format import PixelFormat
from omnitok.data.token_shards import TokenItem, TokenShards
from omnitok.data.video_reader import VIDEO_SUFFIXES, VideoReader, read_video
from omnitok.data.video_writer import ENCODED_SUFFIXES, VideoWriter, write_video

WRITTEN_SUFFIXES = WRITTEN_IMAGE_SUFFIXES | ENCODED_SUFFIXES
"""Suffixes of the files that `write_image` and `write_video` write."""

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "PixelFormat",
    "TokenItem",
    "TokenShards",
    "VideoReader",
    "VideoWriter",
    "detect_modality",
    "list_media",
    "read_image",
    "read_image_array",
    "read_video",
    "read_video_array",
    "to_pil",
    "to_pixels",
    "write_image",
    "write_video",
]
