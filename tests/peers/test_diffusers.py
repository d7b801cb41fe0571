"""Autoencoders of diffusers behind our protocol answer as they do themselves, with random weights at small sizes."""

import importlib
import inspect
import json
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import omnitok
from helpers.autoencoders import IMAGES, VIDEOS, build, save
from omnitok.errors import CheckpointError, OmnitokError
from omnitok.models.protocol import Tokenizer
from omnitok.peers import describe_from
from omnitok.peers.libraries.diffusers import ARCHITECTURES, REFUSED

pytest.importorskip("diffusers")


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


def theirs(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and reconstruction by the class itself."""
    out = model.encode(x)
    value = out[0] if isinstance(out, tuple) else next(iter(out.values()))
    latents = value if isinstance(value, Tensor) else value.mode()
    decoded = model.decode(latents)
    return latents, decoded if isinstance(decoded, Tensor) else decoded.sample


def padded(x: Tensor, tokenizer: Any) -> Tensor:
    """To whole patches, by the last frame, row and column."""
    t, h, w = tokenizer.downsample
    frames = () if x.ndim == 4 else (0, (1 - x.shape[2]) % (tokenizer.traits.frame_multiple or t))
    return F.pad(x, (0, -x.shape[-1] % w, 0, -x.shape[-2] % h, *frames), mode="replicate")


@torch.inference_mode()
@pytest.mark.parametrize("name", IMAGES)
def test_images_equal_theirs(name: str, tmp_path: Path) -> None:
    tokenizer, model = omnitok.load_tokenizer(save(tmp_path, name)), build(name)
    assert isinstance(tokenizer, Tokenizer)
    x = pixels(2, tokenizer.channels, 11, 14)
    if name in ("AutoencoderKLHunyuanImageRefiner", "AutoencoderKLQwenImage21"):  # a video of one frame to them
        latents, reconstruction = (part.squeeze(2) for part in theirs(model, padded(x, tokenizer).unsqueeze(2)))
    else:
        latents, reconstruction = theirs(model, padded(x, tokenizer))
    encoding = tokenizer.encode(x)
    if name == "VQModel":
        latents = model.quantize(latents)[0]
    assert torch.equal(encoding.latents, latents)
    assert torch.equal(tokenizer.decode(encoding.latents, encoding.size), reconstruction[:, :, :11, :14])
    video = tokenizer.encode(x.transpose(0, 1)[None])  # two frames, one by one
    torch.testing.assert_close(video.latents[0].transpose(0, 1), latents)


@torch.inference_mode()
@pytest.mark.parametrize(
    "name", [name for name in VIDEOS if name not in ("AutoencoderKLTemporalDecoder", "AutoencoderKLAllegro")]
)
def test_videos_and_images_equal_theirs(name: str, tmp_path: Path) -> None:
    tokenizer, model = omnitok.load_tokenizer(save(tmp_path / "v1_1", name)), build(name)
    for x in (pixels(1, 3, 4, 11, 14), pixels(1, 3, 11, 14)):
        video = x if x.ndim == 5 else x.unsqueeze(2)
        full = padded(video, tokenizer)
        if name == "AutoencoderVidTok":  # as its `forward` does
            full = F.pad(full, (0, 0, 0, 0, tokenizer.downsample[0] - 1, 0), mode="replicate")
        latents, reconstruction = theirs(model, full)
        encoding = tokenizer.encode(x)
        assert encoding.latents.shape[-3:] == (
            latents.shape[2:] if x.ndim == 5 else (*latents.shape[1:2], *latents.shape[3:])
        )
        assert torch.equal(encoding.latents if x.ndim == 5 else encoding.latents.unsqueeze(2), latents)
        decoded = tokenizer.decode(encoding.latents, encoding.size)
        assert torch.equal(
            decoded if x.ndim == 5 else decoded.unsqueeze(2), reconstruction[:, :, : video.shape[2], :11, :14]
        )
        assert tokenizer.num_frames(latents.shape[2]) == reconstruction.shape[2]


@torch.inference_mode()
def test_a_decoder_that_knows_time_is_told_the_frames(tmp_path: Path) -> None:
    name = "AutoencoderKLTemporalDecoder"
    tokenizer, model = omnitok.load_tokenizer(save(tmp_path, name)), build(name)
    x = pixels(2, 3, 3, 8, 8)
    frames = x.transpose(1, 2).flatten(0, 1)
    expected = model.decode(model.encode(frames).latent_dist.mode(), num_frames=3).sample
    assert torch.equal(tokenizer(x), expected.unflatten(0, (2, 3)).transpose(1, 2))


@torch.inference_mode()
@pytest.mark.parametrize("channels", [1, 4])
def test_pixels_of_other_channels(channels: int, tmp_path: Path) -> None:
    changes = {"in_channels": channels, "out_channels": channels}
    tokenizer, x = omnitok.load_tokenizer(save(tmp_path, "AutoencoderKL", **changes)), pixels(1, channels, 8, 8)
    assert tokenizer.channels == channels
    assert torch.equal(tokenizer(x), theirs(build("AutoencoderKL", **changes), x)[1])
    again = omnitok.load_tokenizer(tokenizer.save_pretrained(tmp_path / "ours"))
    assert torch.equal(again(x), tokenizer(x))
    with pytest.raises(ValueError, match=rf"accepted are float images \(b, {channels}, H, W\)"):
        tokenizer.encode(pixels(1, 3, 8, 8))
    video, encoder, decoder = pixels(1, channels, 3, 8, 8), tokenizer.encoder_stream(), tokenizer.decoder_stream()
    latents = torch.cat([encoder.push(video).latents, encoder.flush().latents], dim=2)
    assert torch.equal(torch.cat([decoder.push(latents), decoder.flush()], dim=2), tokenizer(video))


@torch.inference_mode()
def test_tiles_that_must_cover_all(tmp_path: Path) -> None:
    name = "AutoencoderKLAllegro"
    tokenizer, model = omnitok.load_tokenizer(save(tmp_path, name)), build(name)
    model.enable_tiling()
    x = pixels(1, 3, 3, 16, 20)
    encoding = tokenizer.encode(x)
    full = F.pad(x, (0, 108, 0, 112, 0, 21), mode="replicate")  # 24 frames of 128 x 128
    latents = model.encode(full).latent_dist.mode()
    assert torch.equal(encoding.latents, latents)
    expected = model.decode(latents).sample.transpose(1, 2)
    assert torch.equal(tokenizer.decode(latents, encoding.size), expected[:, :, :3, :16, :20])
    assert tokenizer.latent_shape(25, 129, 129) == (10, 17, 22)  # 16 frames, 8 rows and 48 columns more
    with pytest.raises(OmnitokError, match="AutoencoderKLAllegro takes videos only, 4 frames at a time"):
        tokenizer.encode(x[:, :, 0])


def test_every_class_of_theirs_is_taken_or_refused_by_name(tmp_path: Path) -> None:
    import diffusers
    from diffusers.models import autoencoders

    kinds = {
        name: kind
        for module in pkgutil.iter_modules(autoencoders.__path__)
        for name, kind in vars(importlib.import_module(f"{autoencoders.__name__}.{module.name}")).items()
        if inspect.isclass(kind) and issubclass(kind, diffusers.ModelMixin) and kind.__module__.endswith(module.name)
    }
    assert len(kinds) > 30
    assert ARCHITECTURES.keys() == (IMAGES | VIDEOS).keys()
    for name in sorted(kinds.keys() - ARCHITECTURES):
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
        with pytest.raises(CheckpointError, match=rf"{name}.*(it cannot be a tokenizer here$|known autoencoders are)"):
            omnitok.load_tokenizer(f"diffusers:{tmp_path}")
    assert REFUSED.keys() <= kinds.keys()


def test_a_config_alone_describes_a_model(tmp_path: Path) -> None:
    for name in (IMAGES | VIDEOS).keys() - {"AutoencoderVidTok"}:
        (tmp_path / "config.json").write_text(json.dumps({**build(name).config, "_class_name": name}))
        described = describe_from("diffusers", str(tmp_path))
        assert described.device.type == "meta"
        assert sum(p.numel() for p in described.parameters()) == sum(p.numel() for p in build(name).parameters())
        assert described.channels == (4 if name == "AutoencoderKLQwenImage21" else 3)
    edit(tmp_path, _class_name="AutoencoderKL", layers_per_block=10**9)
    with pytest.raises(CheckpointError, match="asks for more than 1000 layers"):
        describe_from("diffusers", str(tmp_path))


@torch.inference_mode()
def test_codes_are_those_of_the_table(tmp_path: Path) -> None:
    tokenizer, model = omnitok.load_tokenizer(save(tmp_path, "VQModel")), build("VQModel")
    x = pixels(2, 3, 8, 10)
    encoding = tokenizer.encode(x)
    assert encoding.codes is not None
    assert (tokenizer.vocab_size, tokenizer.bits_per_token, encoding.codes.shape) == (32, 5.0, (2, 4, 5))
    assert torch.equal(tokenizer(x), model(x).sample)
    torch.testing.assert_close(tokenizer.decode_codes(encoding.codes), model(x).sample)


@torch.inference_mode()
@pytest.mark.parametrize("causal", [True, False])
def test_vidtok_with_codes(causal: bool, tmp_path: Path) -> None:
    changes = {"regularizer": "fsq", "double_z": False, "z_channels": 3, "codebook_size": 512, "is_causal": causal}
    tokenizer = omnitok.load_tokenizer(save(tmp_path / "v1_1", "AutoencoderVidTok", **changes))
    model, x = build("AutoencoderVidTok", **changes), pixels(1, 3, 5 if causal else 16, 8, 8)
    encoding = tokenizer.encode(x)
    assert encoding.codes is not None
    assert encoding.codes.dtype == torch.int64
    assert torch.equal(tokenizer.decode(encoding.latents), model(x).sample)
    torch.testing.assert_close(tokenizer.decode_codes(encoding.codes), model(x).sample)
    if not causal:
        with pytest.raises(OmnitokError, match="AutoencoderVidTok takes videos only, 4 frames at a time"):
            tokenizer.encode(x[:, :, 0])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderDC", "AutoencoderKLWan", "AutoencoderKLCogVideoX"])
def test_tiles_are_theirs(name: str, tmp_path: Path) -> None:
    tokenizer = omnitok.load_tokenizer(save(tmp_path, name))
    x = pixels(1, 3, 40, 36)
    encoding = tokenizer.encode(x, tile=16)
    whole = tokenizer.encode(x)
    assert encoding.latents.shape == whole.latents.shape
    assert not torch.equal(encoding.latents, whole.latents)
    decoded = tokenizer.decode(encoding.latents, encoding.size, tile=16)
    assert decoded.shape == x.shape
    assert torch.equal(tokenizer.encode(x, tile=40).latents, whole.latents)  # and nothing stays behind
    with pytest.raises(OmnitokError, match="have at least"):
        tokenizer.encode(x, tile=4)
    if name == "AutoencoderKL":
        model = build(name)
        model.tile_sample_min_size, model.tile_latent_min_size = 16, 8
        model.enable_tiling()
        assert torch.equal(encoding.latents, model.encode(x).latent_dist.mode())
        assert torch.equal(decoded, model.decode(encoding.latents).sample)


@torch.inference_mode()
def test_a_call_that_failed_leaves_nothing_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = omnitok.load_tokenizer(save(tmp_path, "AutoencoderKLMagvit"))
    x = pixels(1, 3, 5, 16, 16)
    expected = tokenizer.encode(x).latents
    with monkeypatch.context() as within:
        within.setattr(tokenizer.model.quant_conv, "forward", lambda z: torch.zeros(2**60))  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError):
            tokenizer.encode(x)
    assert torch.equal(tokenizer.encode(x).latents, expected)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("AutoencoderKL", (0.5,) * 4, (1 / 0.18215,) * 4),  # (z - 0.5) * 0.18215
        ("AutoencoderDC", (0.0,) * 4, (2.5,) * 4),
        ("AutoencoderKLWan", (0.5, -0.5), (2.0, 3.0)),
        ("AutoencoderKLCosmos", (0.1,) * 4, (2.0,) * 4),
    ],
)
def test_their_statistics_are_ours(name: str, mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path) -> None:
    statistics = omnitok.load_tokenizer(save(tmp_path, name)).latent_statistics
    assert statistics is not None
    assert statistics.mean == pytest.approx(mean)
    assert statistics.std == pytest.approx(std)


def test_statistics_among_the_weights(tmp_path: Path) -> None:
    reference = save(tmp_path, "AutoencoderKLLTXVideo")
    weights = load_file(tmp_path / WEIGHTS)
    weights["latents_mean"], weights["latents_std"] = torch.arange(8.0), torch.full((8,), 4.0)
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    statistics = omnitok.load_tokenizer(reference).latent_statistics
    assert statistics is not None
    assert (statistics.mean, statistics.std) == (tuple(range(8)), (4.0,) * 8)


# ------------------------------------------------------------------------------------------------------------ files

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diffusers") / "vae"
    save(path, "AutoencoderKL")
    return path


def test_a_folder_of_ours_and_one_in_a_pipeline(folder: Path, tmp_path: Path) -> None:
    tokenizer = omnitok.load_tokenizer(f"diffusers:{folder.parent}#vae")
    again = omnitok.load_tokenizer(tokenizer.save_pretrained(tmp_path / "ours"), dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16
    assert omnitok.load_tokenizer(tmp_path / "ours").fingerprint == tokenizer.fingerprint
    assert again.latent_statistics == tokenizer.latent_statistics
    assert tokenizer.fingerprint != omnitok.load_tokenizer("omnitok-tiny-vae").fingerprint


@pytest.mark.parametrize("layout", ["bin", "parts", "old names"])
def test_weights_in_other_layouts(layout: str, folder: Path, tmp_path: Path) -> None:
    expected = omnitok.load_tokenizer(f"diffusers:{folder}").fingerprint
    weights = load_file(folder / WEIGHTS)
    shutil.copy(folder / "config.json", tmp_path)
    if layout == "bin":
        torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    elif layout == "parts":
        names = sorted(weights)
        parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for part, its in parts.items():
            save_file({name: weights[name] for name in its}, tmp_path / part)
        index = {"weight_map": {name: part for part, its in parts.items() for name in its}}
        (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    else:
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, name in old.items():
            weights = {key.replace(f".{new}.", f".{name}."): weight for key, weight in weights.items()}
        assert any(".proj_attn." in name for name in weights)
        save_file(weights, tmp_path / WEIGHTS)
    assert omnitok.load_tokenizer(f"diffusers:{tmp_path}").fingerprint == expected


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def edit(path: Path, **fields: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "_class_name is UNet2DModel, known autoencoders are AutoencoderKL, "),
        ({"_class_name": ["AutoencoderKL"]}, "_class_name is .*AutoencoderKL"),
        ({"layers_per_block": 2}, r"weights are missing: model\.\S+resnets\.1"),
        ({"layers_per_block": 10**9}, "field layers_per_block asks for more than 1000 layers"),
        ({"block_out_channels": [8]}, "cannot be read as|weights"),
        ({"block_out_channels": "wide"}, "cannot be read as"),
        ({"in_channels": 1}, "it makes pixels of 3 channels out of pixels of 1"),
        ({"scaling_factor": "large"}, "the statistics of its latents make no sense"),
        ({"latents_mean": [1.0, 2.0, 3.0]}, "the statistics of its latents make no sense"),
        ({"twist": 3, "_diffusers_version": "99.0"}, "fields twist are not known to diffusers .* version 99.0"),
    ],
)
def test_a_config_that_is_wrong_is_one_sentence(
    fields: dict[str, object], message: str, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    edit(copy, **fields)
    with pytest.raises(CheckpointError, match=message) as error:
        omnitok.load_tokenizer(f"diffusers:{copy}")
    assert str(error.value).startswith(str(copy))
    assert "\n" not in str(error.value)


def test_files_that_are_wrong_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    def refused(reference: str, message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as error:
            omnitok.load_tokenizer(f"diffusers:{reference}")
        assert "\n" not in str(error.value)

    refused(str(tmp_path), "holds no config.json$")
    (tmp_path / "model_index.json").write_text("{}")
    refused(str(tmp_path), f"is a pipeline, .*: diffusers:{tmp_path}#vae")
    refused(str(tmp_path / "nowhere"), "must be a folder, or a hub id")
    with pytest.raises(CheckpointError, match=f"holds a model of diffusers; say diffusers:{folder}$"):
        omnitok.load_tokenizer(folder)
    shutil.copy(folder / "config.json", tmp_path)
    refused(str(tmp_path), f"holds no {WEIGHTS}")
    torch.save({"a": Hostile()}, tmp_path / "diffusion_pytorch_model.bin")
    refused(str(tmp_path), "diffusion_pytorch_model.bin: ")
    (tmp_path / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "../../secret"}}')
    refused(str(tmp_path), "weight_map")
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    refused(str(tmp_path), "cannot be read as a checkpoint")


def test_a_hub_id_without_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"^someone/model: not a folder here, and the Hugging Face hub cannot be"):
        omnitok.load_tokenizer("diffusers:someone/model#vae")


@pytest.mark.parametrize("name", ["vidtok_kl_causal_488_4chn", "VidTok-FSQ-causal-488-4096", "VidTok 1.0"])
def test_causal_weights_of_vidtok_1_0_are_refused_by_name(name: str, tmp_path: Path) -> None:
    reference = save(tmp_path / "torch-1.1" / name, "AutoencoderVidTok")
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}\S*{name}: VidTok 1\.0 pads .* would be decoded wrongly"):
        omnitok.load_tokenizer(reference)
    folder = shutil.move(tmp_path / "torch-1.1" / name, tmp_path / f"{name}-v1-1")
    omnitok.load_tokenizer(f"diffusers:{folder}")
    (tmp_path / name).mkdir()
    folder = shutil.move(folder, tmp_path / name / "vae")
    for reference in (f"diffusers:{folder}", f"diffusers:{tmp_path / name}#vae"):
        with pytest.raises(CheckpointError, match=r"VidTok 1\.0 pads"):
            omnitok.load_tokenizer(reference)
    folder = shutil.move(folder, tmp_path / "vae")
    with pytest.warns(UserWarning, match=r"vae: nothing says if this is VidTok 1\.1, so it is taken for it"):
        omnitok.load_tokenizer(f"diffusers:{folder}")
    edit(folder, _name_or_path=f"elsewhere/{name}")
    with pytest.raises(CheckpointError, match=r"VidTok 1\.0 pads"):
        omnitok.load_tokenizer(f"diffusers:{folder}")


def test_without_diffusers_it_is_one_sentence(folder: Path) -> None:
    script = (
        "import sys; sys.modules['diffusers'] = None; import omnitok\n"
        f"try: omnitok.load_tokenizer('diffusers:{folder}')\n"
        "except omnitok.errors.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("pip install 'diffusers'")
