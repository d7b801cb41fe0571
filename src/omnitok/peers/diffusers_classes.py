"""The autoencoders of diffusers by the names of their classes: the patches of each, the frames it takes, its tiles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Architecture:
    """How to ask one class.

    Attributes:
        space: pixels per latent row and column.
        time: frames per latent frame; None for a model of images.
        frames: what T - 1 (T, where the first frame is not alone) is padded to a multiple of; None means `time`.
        alone: whether the first frame is a latent frame by itself.
        tiles: whether it has tiles of its own.
        one_by_one: whether samples of a batch go through singly, for it fails with more.
        as_video: of a model of images, whether it wants each as a video of one frame.
        frames_first: whether what it decodes has its frames before its channels.
        cover: (tile, stride) of frames, rows and columns, where it works in tiles only, which have to cover all.
        arguments: what its `decode` takes beside the latents.
    """

    space: Callable[[Any], int]
    time: Callable[[Any], int] | None = None
    frames: Callable[[Any], int] | None = None
    alone: Callable[[Any], bool] = lambda model: True
    tiles: bool = False
    one_by_one: bool = False
    as_video: bool = False
    frames_first: bool = False
    cover: Callable[[Any], tuple[tuple[int, int], ...]] | None = None
    arguments: Callable[[Any, Tensor], dict[str, Any]] = lambda model, latents: {}


def _levels(field: str) -> Callable[[Any], int]:
    """2 for every level but one that a field of the configuration lists."""
    return lambda model: 2 ** (len(model.config[field]) - 1)


def _claimed(model: Any) -> int:
    return int(model.spatial_compression_ratio)


def _time(model: Any) -> int:
    return int(model.temporal_compression_ratio)


def _halvings(model: Any) -> int:
    return 2 ** sum(model.config.temperal_downsample)  # (their spelling)


def _timestep(model: Any, latents: Tensor) -> dict[str, Any]:
    """A decoder that also removes noise is told that there is none, as their pipelines do by default."""
    return {"temb": latents.new_zeros(len(latents))} if model.config.timestep_conditioning else {}


ARCHITECTURES: dict[str, Architecture] = {
    "AutoencoderKL": Architecture(_levels("block_out_channels"), tiles=True),
    "AsymmetricAutoencoderKL": Architecture(_levels("down_block_out_channels")),
    "AutoencoderTiny": Architecture(_levels("encoder_block_out_channels")),
    "VQModel": Architecture(_levels("block_out_channels")),
    "AutoencoderDC": Architecture(_claimed, tiles=True),
    "AutoencoderKLFlux2": Architecture(_levels("block_out_channels"), tiles=True),
    "AutoencoderKLHunyuanImage": Architecture(lambda model: int(model.config.spatial_compression_ratio)),
    "AutoencoderKLHunyuanImageRefiner": Architecture(_claimed, tiles=True, as_video=True),
    "AutoencoderKLKVAE": Architecture(_levels("ch_mult"), tiles=True),
    "AutoencoderKLQwenImage21": Architecture(_claimed, tiles=True, as_video=True),
    "AutoencoderKLTemporalDecoder": Architecture(
        _levels("block_out_channels"), lambda model: 1, arguments=lambda model, z: {"num_frames": z.shape[2]}
    ),
    "AutoencoderKLCogVideoX": Architecture(  # decodes latent frames in pairs, so that they are odd in number
        _levels("block_out_channels"),
        lambda model: int(model.config.temporal_compression_ratio),
        lambda model: 2 * int(model.config.temporal_compression_ratio),
        tiles=True,
    ),
    "AutoencoderKLWan": Architecture(_claimed, _halvings, lambda model: 4, tiles=True),
    "AutoencoderKLQwenImage": Architecture(_claimed, _halvings, lambda model: 4, tiles=True),
    "AutoencoderKLHunyuanVideo": Architecture(_claimed, _time, tiles=True),
    "AutoencoderKLHunyuanVideo15": Architecture(_claimed, _time, tiles=True, one_by_one=True),
    "AutoencoderKLCosmos": Architecture(
        lambda model: int(model.config.spatial_compression_ratio),
        lambda model: int(model.config.temporal_compression_ratio),
    ),
    "AutoencoderKLLTXVideo": Architecture(_claimed, _time, tiles=True, arguments=_timestep),
    "AutoencoderKLLTX2Video": Architecture(_claimed, _time, tiles=True, arguments=_timestep),
    "AutoencoderKLKVAEVideo": Architecture(_levels("ch_mult"), lambda model: int(model.config.temporal_compress_times)),
    "Kandinsky6SRVAE": Architecture(_claimed, _time),
    "AutoencoderKLAllegro": Architecture(
        _claimed,
        lambda model: int(model.config.temporal_compression_ratio),
        alone=lambda model: False,
        one_by_one=True,
        frames_first=True,
        cover=lambda model: tuple(zip(model.kernel, model.stride, strict=True)),
    ),
    "AutoencoderKLMochi": Architecture(_claimed, _time, tiles=True),
    "AutoencoderKLMagvit": Architecture(_claimed, _time, lambda model: model.num_sample_frames_batch_size, tiles=True),
    "AutoencoderVidTok": Architecture(
        lambda model: 2 ** len(model.encoder.spatial_ds),
        _time,
        lambda model: _time(model) if model.is_causal else model.num_sample_frames_batch_size,
        alone=lambda model: bool(model.is_causal),
        tiles=True,
    ),
}
"""How to ask each."""

_SOUND = (
    *("AutoencoderKLKVAEAudio", "AutoencoderKLLTX2Audio", "AutoencoderKLMiniMaxH3Audio", "AutoencoderOobleck"),
    *("AutoencoderSAME", "Cosmos3AVAEAudioTokenizer", "LongCatAudioDiTVae", "MMAudioVAE"),
)
REFUSED: dict[str, str] = {
    **dict.fromkeys(_SOUND, "is of sound"),
    "AutoencoderKLMiniMaxH3": "codes videos in parts of a fixed length that overlap in their latents",
    "AutoencoderRAE": "resizes images to one square, so that they do not come back in their size",
    "ConsistencyDecoderVAE": "decodes with random numbers, so that latents have no pixels of their own",
    "LTX2VideoDiffusionDecoderModel": "is a decoder without its encoder",
    "RFD4ProteinaAutoencoder": "is of proteins",
}
"""Classes of diffusers that are no tokenizers of images or videos here, and why."""

PATCHED = ("AutoencoderKLWan", "AutoencoderKLQwenImage21")
"""Classes whose channels are those of patches, where their configuration has a `patch_size`."""
