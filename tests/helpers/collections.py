"""An index of files that need not exist."""

import os
from collections.abc import Iterable

from omnitok.data.samples import Index, Samples

PathLike = str | os.PathLike[str]


def index_of(images: Iterable[PathLike] = (), videos: Iterable[PathLike] = ()) -> Index:
    index = Index(Samples(), Samples())
    for samples, paths in ((index.images, images), (index.videos, videos)):
        for path in paths:
            samples.append(os.fspath(path))
    return index
