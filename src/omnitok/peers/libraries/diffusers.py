"""Autoencoders of diffusers (github.com/huggingface/diffusers) by the `_class_name` of their `config.json`.

Their code computes, asked as `ARCHITECTURES` says of each.
"""

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.errors import CheckpointError, describe
from omnitok.hub.header import check_layers
from omnitok.models.protocol import LatentStatistics
from omnitok.peers.base import Coded, PeerTokenizer, Traits
from omnitok.peers.family import Family
from omnitok.peers.library import Library, find_name, import_class
from omnitok.peers.vidtok import check_version, version_in

_SAID_TWICE = ("block_out_channels", "force_upcast")  # by some classes, for pipelines

_OVERLAP = 0.25  # of neighbouring tiles, as in their AutoencoderKL


# ---------------------------------------------------------------------------------------------------------- the classes


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


# -------------------------------------------------------------------------------------------------------- the tokenizer


class DiffusersTokenizer(PeerTokenizer):
    """An autoencoder of diffusers.

    Args:
        config: the fields of its `config.json`.

    Raises:
        CheckpointError: an architecture that is not known here or not installed, fields of another version, or values
            that no such model has.
        MissingExtraError: diffusers is not installed.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        name = _class_of(config)
        model = _build(name, config)
        self._asks = asks = ARCHITECTURES[name]
        space = asks.space(model)
        super().__init__(
            config,
            Traits(
                name,
                latent_channels=_latent_channels(model),
                downsample=(1 if asks.time is None else asks.time(model), space, space),
                vocab_size=_vocab_size(model),
                is_video_model=asks.time is not None,
                first_frame_alone=asks.alone(model),
                frame_multiple=None if asks.frames is None else asks.frames(model),
                channels=_channels(name, model),
            ),
        )
        self.model = model
        if asks.one_by_one:
            model.enable_slicing()
        self._cover = None if asks.cover is None else asks.cover(model)
        if self._cover is not None:
            model.enable_tiling()

    def _padded_frames(self, frames: int) -> int:
        return super()._padded_frames(frames) if self._cover is None else _covered(frames, *self._cover[0])

    def _padded_sides(self, height: int, width: int) -> tuple[int, int]:
        if self._cover is None:
            return super()._padded_sides(height, width)
        return _covered(height, *self._cover[1]), _covered(width, *self._cover[2])

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of every module; the latents' statistics, which may be among the weights, are read anew."""
        result = super().load_state_dict(state_dict, strict, assign)
        self.latent_statistics = _statistics(self.model, self.latent_channels)
        return result

    def num_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames decode to."""
        if self.traits.name == "AutoencoderKLCogVideoX" and latent_frames % 2 == 0:
            return latent_frames * self.downsample[0]  # pairs, none of which is a first frame
        return super().num_frames(latent_frames)

    def encode_pixels(self, pixels: Tensor) -> Coded:
        """Tokens of padded pixels."""
        b, frames = len(pixels), pixels.shape[2]
        if self.traits.name == "AutoencoderVidTok" and self.traits.first_frame_alone:  # as its `forward` does
            pixels = F.pad(pixels, (0, 0, 0, 0, self.downsample[0] - 1, 0), mode="replicate")
        folded = self.traits.name == "AutoencoderKLTemporalDecoder"  # encodes images, decodes videos
        if self.traits.name == "AutoencoderKLMagvit":  # it keeps frames of a call that failed
            self.model._clear_conv_cache()
        if self._asks.as_video:
            coded = self._read(self.model.encode(pixels.unsqueeze(2)))
            logvar = None if coded.logvar is None else coded.logvar.squeeze(2)
            coded = Coded(coded.latents.squeeze(2), logvar=logvar)
        else:
            coded = self._read(self.model.encode(pixels.transpose(1, 2).flatten(0, 1) if folded else pixels))
        if folded:
            assert coded.logvar is not None
            parts = (part.unflatten(0, (b, frames)).transpose(1, 2) for part in (coded.latents, coded.logvar))
            coded = Coded(next(parts), logvar=next(parts))
        self._check_grid(coded.latents, pixels if folded else pixels[:, :, -frames:] if pixels.ndim == 5 else pixels)
        return coded

    def _read(self, out: Any) -> Coded:
        """What their `encode` gave: a pair, or an object with latents or their distribution as its only field."""
        if isinstance(out, tuple):
            return Coded(out[0], out[1].long())
        value = next(iter(out.values()))
        if not isinstance(value, Tensor):
            return Coded(value.mode(), logvar=vars(value).get("logvar"))
        if self.vocab_size is None:
            return Coded(value)
        quantized, _, (_, _, codes) = self.model.quantize(value)
        return Coded(quantized, codes.reshape(quantized[:, 0].shape))

    def _check_grid(self, latents: Tensor, pixels: Tensor) -> None:
        expected = self.latent_shape(pixels.shape[2] if pixels.ndim == 5 else 1, *pixels.shape[-2:])
        found = tuple(latents.shape[2:])
        if found != expected[5 - pixels.ndim :]:
            raise CheckpointError(
                f"{self.traits.name} makes latents {found} of {tuple(pixels.shape[2:])} pixels, where its config.json "
                f"says that patches have {self.downsample} pixels (t, h, w)"
            )

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels of latents."""
        model = self.model
        if self.traits.name == "VQModel":  # its `decode` would look for codes again
            return model.decoder(
                model.post_quant_conv(latents), latents if model.config.norm_type == "spatial" else None
            )
        arguments = self._asks.arguments(model, latents)
        if self.traits.name == "AutoencoderKLMagvit":
            model._clear_conv_cache()
        folded = self.traits.name == "AutoencoderKLTemporalDecoder"
        if self._asks.as_video:
            latents = latents.unsqueeze(2)
        out = model.decode(latents.transpose(1, 2).flatten(0, 1) if folded else latents, **arguments)
        pixels = out if isinstance(out, Tensor) else out.sample
        if self._asks.as_video:
            return pixels.squeeze(2)
        if self._asks.frames_first:
            return pixels.transpose(1, 2)
        return pixels.unflatten(0, (len(latents), -1)).transpose(1, 2) if folded else pixels

    def lookup(self, codes: Tensor) -> Tensor:
        """Code vectors (..., c) of codes (...)."""
        if self.traits.name == "VQModel":
            return self.model.quantize.embedding(codes)
        latents = self.model.indices_to_latent(codes.reshape(1, 1, 1, -1))  # (1, c, 1, 1, n)
        return latents[0, :, 0, 0].T.reshape(*codes.shape, -1)

    @property
    def tile_unit(self) -> int | None:
        """What tiles share is a quarter, and whole latent positions."""
        return round(self.downsample[1] / _OVERLAP) if self._asks.tiles else None

    @contextlib.contextmanager
    def in_tiles(self, tile: int) -> Iterator[None]:
        """Their own tiles, blended over a quarter of their side."""
        space, unit = self.downsample[1], self.tile_unit
        assert unit is not None
        side = tile // unit * unit
        wanted: dict[str, float] = {"use_tiling": True}
        for axis in ("size", "height", "width"):
            wanted |= {f"tile_sample_min_{axis}": side, f"tile_latent_min_{axis}": side // space}
            wanted |= {f"tile_sample_stride_{axis}": round(side * (1 - _OVERLAP))}
        wanted |= {f"tile_overlap_factor{axis}": _OVERLAP for axis in ("", "_height", "_width")}
        before = {name: value for name, value in vars(self.model).items() if name in wanted}
        try:
            vars(self.model).update({name: wanted[name] for name in before})
            yield
        finally:
            vars(self.model).update(before)


# ------------------------------------------------------------------------------------------------------------ the model


def _class_of(config: Mapping[str, Any]) -> str:
    return find_name(config, "_class_name", ARCHITECTURES, REFUSED, "autoencoders")


def _build(name: str, config: Mapping[str, Any]) -> Any:
    """Their model with fresh weights."""
    diffusers, kind = import_class("diffusers", name)
    known = inspect.signature(kind.__init__).parameters
    fields = {field: value for field, value in config.items() if field in known and field != "self"}
    unknown = [field for field in config if field not in known and field not in _SAID_TWICE and field[:1] != "_"]
    if unknown and _is_newer(config.get("_diffusers_version"), diffusers.__version__):
        raise CheckpointError(
            f"fields {', '.join(map(describe, unknown[:5]))} are not known to diffusers {diffusers.__version__}, which "
            f"is installed; the file is of version {describe(config['_diffusers_version'])}"
        )
    check_layers(fields)
    if config.get("regularizer") == "fsq":  # reads its own tensors while it is built, which the meta device refuses
        with torch.device("cpu"):
            return kind(**fields)
    return kind(**fields)


def _is_newer(theirs: object, installed: str) -> bool:
    first, second = (tuple(map(int, re.findall(r"\d+", str(version)[:40])[:3])) for version in (theirs, installed))
    return first > second


def _covered(length: int, tile: int, stride: int) -> int:
    """The least length from `length` on that a tile and whole strides make."""
    return tile + max(0, -(-(length - tile) // stride)) * stride


def _channels(name: str, model: Any) -> int:
    """Of the pixels.

    Raises:
        CheckpointError: it makes pixels of others than it takes.
    """
    config = model.config
    given = config.get("in_channels", config.get("input_channels", 3))
    made = config.get("out_channels", config.get("out_ch", given))
    if name == "AutoencoderKLMochi":  # adds sines of the pixels
        given /= 5
    values = (config.get("patch_size") or 1) ** 2 if name in PATCHED else 1  # of a channel
    if given != made or given % values:
        raise CheckpointError(f"it makes pixels of {made / values:g} channels out of pixels of {given / values:g}")
    return int(given) // values


def _latent_channels(model: Any) -> int:
    config = model.config
    names = ("vq_embed_dim", "z_dim", "z_channels", "latent_channels")
    return int(next(config[name] for name in names if config.get(name) is not None))


def _vocab_size(model: Any) -> int | None:
    if model.config.get("regularizer") == "fsq":
        return int(model.config.codebook_size)
    codes = model.config.get("num_vq_embeddings")
    return None if codes is None else int(codes)


def _statistics(model: Any, channels: int) -> LatentStatistics | None:
    """What turns latents into what their diffusion models see: (z - mean) / std * scaling_factor, or
    (z - shift_factor) * scaling_factor. Some Cosmos models have statistics of 16 latent frames: their means are taken.

    Raises:
        CheckpointError: numbers that are none, or too many.
    """
    config = model.config
    if config.get("num_vq_embeddings") is not None:
        return None
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    means, deviations = ((vars(model)["_buffers"].get(n), config.get(n)) for n in ("latents_mean", "latents_std"))
    mean, std = (next((v for v in pair if v is not None), None) for pair in (means, deviations))
    if scale is None and (mean is None or std is None):
        return None
    try:
        mean, std = (
            torch.as_tensor(default if value is None else value, dtype=torch.float64).reshape(-1)
            for value, default in ((mean, shift or 0.0), (std, 1.0))
        )
        mean, std = (v.expand(channels) if v.numel() == 1 else v.reshape(channels, -1).mean(1) for v in (mean, std))
        std = std / float(1.0 if scale is None else scale)
        if not bool((mean.isfinite() & std.isfinite() & (std > 0)).all()):
            raise ValueError("they must be finite, and deviations positive")
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"the statistics of its latents make no sense: {error}") from error
    return LatentStatistics(tuple(mean.tolist()), tuple(std.tolist()))


# ------------------------------------------------------------------------------------------------------------ the files

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention in files of 2022 -> in those of today."""


def _configure(fields: dict[str, Any], reference: str) -> dict[str, Any]:
    if _class_of(fields) == "AutoencoderVidTok" and fields.get("is_causal", True):
        place, _, subfolder = reference.partition("#")
        folder, origin = Path(place).absolute(), Path(str(fields.get("_name_or_path")))
        check_version(version_in(subfolder, folder.name, folder.parent.name, origin.name), reference)
    return fields


def _rename(name: str, fields: Mapping[str, Any]) -> str:
    parts = name.split(".")
    if len(parts) > 2 and parts[-2] in _OLD_NAMES and "attentions" in parts:
        parts[-2] = _OLD_NAMES[parts[-2]]
    return ".".join(["model", *parts])


def _hint(folder: Path) -> str:
    if not (folder / "model_index.json").is_file():
        return ""
    return f"; it is a pipeline, whose autoencoder is in a subfolder: diffusers:{folder}#vae"


FAMILY = Family(
    "diffusers",
    DiffusersTokenizer,
    library=Library(
        (
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.bin",
        ),
        _configure,
        _rename,
        _hint,
    ),
)
"""For folders that `save_pretrained` wrote; no single file is of this family."""
