"""Reading and writing media, datasets of pictures and clips, batching and token shards."""

from omnitok.data.image import IMAGE_SUFFIXES, read_image, write_image
from omnitok.data.index import list_media
from omnitok.data.token_shards import TokenItem, TokenShards
from omnitok.data.video_reader import VIDEO_SUFFIXES, VideoReader, media_kind, read_video
from omnitok.data.video_writer import VideoWriter, write_video

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
