"""Pixels to train on: files -> this process's batches by step."""

from collections import Counter
from pathlib import Path

from omnitok.data.index import build_index
from omnitok.data.loader import PixelDataset
from omnitok.data.sampler import Sampler
from omnitok.data.samples import NO_SOURCE, Index, Samples
from omnitok.data.video_reader import WindowSampling
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.training.config import DataConfig


def find_files(config: DataConfig, folder_labels: bool = False) -> Index:
    """The images and the videos.

    Args:
        folder_labels: classes are the folders directly below those given.

    Raises:
        OmnitokError: neither is given, or something is missing, empty or malformed.
    """
    if not config.images and not config.videos:
        raise OmnitokError("there is nothing to train on: give --images DIR, --videos DIR, or both")
    return build_index(images=config.images, videos=config.videos, labels="folders" if folder_labels else "none")


def check_batches(data: DataConfig, accumulation: int, processes: Processes) -> None:
    """Raise OmnitokError unless the processes can share the batches evenly, in `accumulation` parts each."""
    parts = processes.world_size * accumulation
    for name, size in (("image_batch", data.image_batch), ("video_batch", data.video_batch)):
        if size % parts:
            raise OmnitokError(
                f"data.{name}={size} cannot be shared evenly by {processes.world_size} processes in "
                f"{accumulation} parts each; give a multiple of {parts}"
            )


def build_dataset(
    data: DataConfig, accumulation: int, seed: int, processes: Processes, folder_labels: bool = False
) -> PixelDataset:
    """This process's share of the files of `data`, in the order they are drawn in.

    Args:
        accumulation: parts of each process's share, which must be equal.
        seed: of the order, crops and flips.
        folder_labels: classes are the folders directly below those given.

    Raises:
        OmnitokError: no files, or batches that the processes cannot share evenly.
    """
    check_batches(data, accumulation, processes)
    samples = find_files(data, folder_labels)
    if data.ken_burns and not samples.images:
        raise OmnitokError(f"data.ken_burns={data.ken_burns} makes clips from pictures; give --images DIR")
    sampler = Sampler(
        len(samples.images),
        len(samples.videos),
        data.image_batch,
        data.video_batch,
        data.resolutions,
        seed,
        data.video_share,
        _source_weights(samples.videos) if data.balance_sources and samples.videos else None,
        data.video_resolutions or None,
    )
    return PixelDataset(
        samples,
        sampler,
        WindowSampling(data.frames, data.fps, data.stride),
        data.image_policy,
        data.video_policy,
        data.flip,
        processes.rank,
        processes.world_size,
        data.ken_burns,
        data.drawn,
    )


def _source_weights(videos: Samples) -> list[float]:
    """Square-root balancing: a source with n videos is drawn in proportion to sqrt(n).

    Sources are those of the manifests; videos without one are grouped by their names up to the number at their end.
    """
    numbers = videos.sources.tolist()
    sources = [
        Path(sample.name).stem.rstrip("0123456789_") if number == NO_SOURCE else number
        for sample, number in zip(videos, numbers, strict=True)
    ]
    counts = Counter(sources)
    return [counts[source] ** -0.5 for source in sources]
