"""Reading and writing media, datasets of pictures and clips, batching and token shards."""

from omnitok.data.index import list_media
from omnitok.data.media import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    VideoReader,
    VideoWriter,
    media_kind,
    read_image,
    read_video,
    write_image,
    write_video,
)
from omnitok.data.token_shards import TokenItem, TokenShards

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "TokenItem",
    "TokenShards",
    "VideoReader",
    "VideoWriter",
    "list_media",
    "media_kind",
    "read_image",
    "read_video",
    "write_image",
    "write_video",
]
