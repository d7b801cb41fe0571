"""Pixels to train on: files -> this process's batches by step."""

from collections import Counter
from pathlib import Path

from omnitok.data.loading import StepDataset
from omnitok.data.sampling import Sampler
from omnitok.data.sources import NO_DOMAIN, SampleList, find_samples
from omnitok.data.videos import ClipSampling
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.training.config import DataConfig


def find_files(config: DataConfig, folder_labels: bool = False) -> tuple[SampleList, SampleList]:
    """The pictures and the clips.

    Args:
        folder_labels: classes are the folders directly below those given.

    Raises:
        OmnitokError: neither is given, or something is missing, empty or malformed.
    """
    if not config.images and not config.videos:
        raise OmnitokError("there is nothing to train on: give --images DIR, --videos DIR, or both")
    images = (
        find_samples(config.images, "image", folder_labels=folder_labels) if config.images else SampleList.of_paths([])
    )
    videos = (
        find_samples(config.videos, "video", folder_labels=folder_labels) if config.videos else SampleList.of_paths([])
    )
    return images, videos


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
) -> StepDataset:
    """This process's share of the files of `data`, in the order they are drawn in.

    Args:
        accumulation: parts of each process's share, which must be equal.
        seed: of the order, crops and flips.
        folder_labels: classes are the folders directly below those given.

    Raises:
        OmnitokError: no files, or batches that the processes cannot share evenly.
    """
    check_batches(data, accumulation, processes)
    images, videos = find_files(data, folder_labels)
    if data.pan_zoom and not images:
        raise OmnitokError(f"data.pan_zoom={data.pan_zoom} makes clips from pictures; give --images DIR")
    sampler = Sampler(
        len(images),
        len(videos),
        data.image_batch,
        data.video_batch,
        data.resolutions,
        seed,
        data.video_share,
        _domain_weights(videos) if data.balance_domains and videos else None,
        data.video_resolutions or None,
    )
    return StepDataset(
        images,
        videos,
        sampler,
        ClipSampling(data.frames, data.fps, data.stride),
        data.image_policy,
        data.video_policy,
        data.flip,
        processes.rank,
        processes.world_size,
        data.pan_zoom,
    )


def _domain_weights(videos: SampleList) -> list[float]:
    """Square-root balancing: a domain with n clips is drawn in proportion to sqrt(n).

    Domains are those of the manifests; clips without one are grouped by their names up to the number at their end.
    """
    numbers = videos.domains.tolist() or [NO_DOMAIN] * len(videos)
    domains = [
        Path(sample.name).stem.rstrip("0123456789_") if number == NO_DOMAIN else number
        for sample, number in zip(videos, numbers, strict=True)
    ]
    counts = Counter(domains)
    return [counts[domain] ** -0.5 for domain in domains]
