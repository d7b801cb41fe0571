"""How files become batches: what the sampler and the dataset are told, declared once with its bounds."""

from typing import Annotated

from pydantic import Field

from omnitok.checked import AtLeastOne, Natural, Share, checked
from omnitok.data.pixel_format import RangesField
from omnitok.data.transforms import CropPolicy


@checked
class DataConfig:
    """The files, and how they become batches.

    Attributes:
        images, videos: folders, files, lists, manifests or tar shards (see `omnitok.data.index`); set by `--images`
            and `--videos`.
        frames: length of a video.
        fps: frames per second that videos are sampled at first; None takes their frames as they are.
        stride: keep every stride-th of these.
        resolutions: one is drawn for each step.
        video_resolutions: those of steps of videos, where they differ.
        image_batch, video_batch: global batch sizes.
        video_share: share of the steps that are of videos, in a random order; None alternates, image first, as in the
            paper. Where there are samples of one modality only, every step is of that.
        image_policy, video_policy: how frames become squares.
        flip: mirror half of the samples.
        balance_sources: draw videos so that a source of n videos comes up in proportion to sqrt(n), not n. Sources are
            the column `domain` of a manifest (also of a `manifest.csv` in the folder), or else file names up to the
            number at their end.
        ranges: values (low, high) of the files of each channel, or of all, that become -1 and 1 (`--ranges`; see
            `omnitok.data.PixelFormat`); none takes those of the model that training starts from.
        alpha_masks: share of the samples without transparency whose alpha becomes a drawn mask; of 4 channels only.
        ken_burns: share of the videos of a batch that are made from images, by a window that moves over one.
        drawn: share of the samples that are drawn by `omnitok.data.drawn` in place of a file: letters, lines, stripes,
            codes, screens, plain colours and other things that photographs do not have.
        workers: loading processes; 0 loads in the training process.
    """

    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    frames: AtLeastOne = 17
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    stride: AtLeastOne = 1
    resolutions: Annotated[tuple[AtLeastOne, ...], Field(min_length=1)] = (256,)
    video_resolutions: tuple[AtLeastOne, ...] = ()
    image_batch: AtLeastOne = 8
    video_batch: AtLeastOne = 4
    video_share: Share | None = None
    image_policy: CropPolicy = "random_resized_crop"
    video_policy: CropPolicy = "random_resized_crop"
    flip: bool = True
    balance_sources: bool = False
    ranges: RangesField = ()
    alpha_masks: Share = 0.0
    ken_burns: Share = 0.0
    drawn: Share = 0.0
    workers: Natural = 1
