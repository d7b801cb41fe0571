"""How a collection is tokenized: everything that the bytes of the shards depend on, beside the data and the model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from omnitok.checked import AtLeastOne, Natural, Seed, checked

MIXED_GROUP = 4
"""Where sizes differ, a group has so many batches' worth of files, to find pixels of one size in."""


@checked
class TokenizeSettings:
    """The options of a tokenization.

    Attributes:
        resolution: side of the square that images and frames are brought to; None keeps sizes.
        frames: length of the windows that videos are cut into; 0 keeps videos whole.
        fps: frames per second that videos are sampled at; None takes every frame.
        views: augmentations of each file (`draw_augmentations`).
        crop_range: how many times as long as the side of a crop the short side of a file may be; None: crops of
            `resolution` or more. 1.1 is the default where LlamaGen (Sun et al., arXiv 2406.06525) extracts codes of
            crops (`--crop-range` of its released code).
        batch_size: items encoded at a time.
        shard_size: files in a shard, rounded up to whole groups.
        seed: of the views.
        precision: of the encoder.

    Raises:
        ValueError: a number out of range.
    """

    resolution: AtLeastOne | None = None
    frames: Natural = 17
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    views: AtLeastOne = 1
    crop_range: Annotated[float, Field(ge=1)] | None = None
    batch_size: AtLeastOne = 16
    shard_size: AtLeastOne = 1024
    seed: Seed = 0
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _check(self) -> "TokenizeSettings":
        if self.crop_range is not None and (self.resolution is None or self.views < 2):
            raise ValueError(
                "crop_range is of random crops: it needs a resolution (--resolution) and at least 2 views (--views)"
            )
        return self

    @property
    def group_size(self) -> int:
        """Files in a group."""
        return self.batch_size if self.resolution is not None else self.batch_size * MIXED_GROUP
