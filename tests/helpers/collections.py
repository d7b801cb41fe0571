"""Collections of files that need not exist, and batches of them."""

import os
from collections.abc import Iterable

from omnitok.data.config import DataConfig
from omnitok.data.loader import PixelDataset
from omnitok.data.sampler import Sampler
from omnitok.data.samples import Index, Samples

PathLike = str | os.PathLike[str]


def index_of(images: Iterable[PathLike] = (), videos: Iterable[PathLike] = ()) -> Index:
    index = Index(Samples(), Samples())
    for samples, paths in ((index.images, images), (index.videos, videos)):
        for path in paths:
            samples.append(os.fspath(path))
    return index


def pixels_of(index: Index, config: DataConfig, seed: int, rank: int = 0, world_size: int = 1) -> PixelDataset:
    sampler = Sampler(len(index.images), len(index.videos), config, seed)
    return PixelDataset(index, sampler, config, rank, world_size)
