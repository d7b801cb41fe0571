"""TATS, VidTok and Cosmos: the answers of the authors' code, files in every container, sizes, streams, bad files."""

import argparse
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import omnitok
from helpers.seeded_weights import seeded_weights
from helpers.video_peers import VIDEO_PEERS, build_video_peer
from omnitok import peers
from omnitok.errors import CheckpointError, OmnitokError
from omnitok.peers import vidtok
from omnitok.peers.base import PeerTokenizer
from omnitok.peers.causal import CausalPeer
from omnitok.peers.cosmos import from_wavelets, to_wavelets
from omnitok.peers.tats import TATS

REFERENCES = Path(__file__).resolve().parents[2] / "../shared/reference_peers"
needs_references = pytest.mark.skipif(not REFERENCES.is_dir(), reason="the shared reference tensors are not here")

PIXELS = {"TATS": 0.5}  # where their range is not ours: what ours is multiplied with
TOLERANCE = {"atol": 1e-4, "rtol": 0}
STREAMED = [name for name in VIDEO_PEERS if not name.startswith("tats")]


@pytest.fixture(scope="module")
def video_golden() -> dict[str, Tensor]:
    """Inputs and answers of the authors' code: pixels are every 4th, 6th or 8th of a row and of a column."""
    return load_file(Path(__file__).with_name("video_families.safetensors"))


def video(frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """One of a batch of two, (2, 3, T, H, W)."""
    return torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", VIDEO_PEERS)
@pytest.mark.parametrize("modality", ["image", "video"])
def test_answers_are_those_of_the_authors_code(name: str, modality: str, video_golden: dict[str, Tensor]) -> None:
    expected = {
        what: video_golden.get(f"{name}.{modality}.{what}") for what in ("codes", "latents", "logvar", "pixels")
    }
    pixels = expected["pixels"]
    if pixels is None:
        pytest.skip("a model of videos only")
    tokenizer, family = build_video_peer(name), name.partition("_")[0]
    scale = PIXELS.get(tokenizer.traits.name, 1.0)
    x = video_golden.get(f"{name if family == 'tats' else family}.{modality}")
    if x is not None:
        encoding = tokenizer.encode(x / scale)
        if expected["codes"] is not None:
            assert torch.equal(encoding.codes, expected["codes"].long())
        if expected["latents"] is not None:
            torch.testing.assert_close(encoding.latents, expected["latents"], **TOLERANCE)
        if expected["logvar"] is not None:
            assert encoding.posterior is not None
            torch.testing.assert_close(encoding.posterior.logvar, expected["logvar"], **TOLERANCE)
    if expected["codes"] is None:
        assert expected["latents"] is not None
        decoded = tokenizer.decode(expected["latents"])
    else:
        decoded = tokenizer.decode_codes(expected["codes"])
    step = decoded.shape[-1] // pixels.shape[-1]
    torch.testing.assert_close(scale * decoded[..., ::step, ::step], pixels, **TOLERANCE)


@needs_references
@pytest.mark.parametrize(
    ("file", "answers"),
    [
        ("tats_batch.safetensors", None),
        ("tats_lightning.ckpt", "tats_lightning_expected.safetensors"),
        ("vidtok_fsq_causal_888_v1_1.safetensors", None),
        ("vidtok_kl_causal_488_v1_1.safetensors", None),
        ("cosmos_cv4x8x8.safetensors", None),
        ("cosmos_dv4x8x8.safetensors", None),
    ],
)
def test_reference_files(file: str, answers: str | None) -> None:
    expected = load_file(REFERENCES / (answers or file))
    tokenizer = omnitok.load_tokenizer(REFERENCES / file)
    scale = PIXELS.get(tokenizer.traits.name, 1.0)  # type: ignore[attr-defined]
    for modality in ("image", "video"):
        given = {name.partition(".")[2]: tensor for name, tensor in expected.items() if name.startswith(f"{modality}.")}
        if not given:
            continue
        encoding = tokenizer.encode(given["input"] / scale)
        if "indices" in given:
            assert torch.equal(encoding.codes, given["indices"])
            torch.testing.assert_close(encoding.latents, given["quantized"], **TOLERANCE)
            decoded = tokenizer.decode_codes(given["indices"], encoding.size)
        else:
            latents = given.get("latent_mean", given.get("latent"))
            torch.testing.assert_close(encoding.latents, latents, **TOLERANCE)
            if encoding.posterior is not None:
                torch.testing.assert_close(encoding.posterior.logvar, given["latent_logvar"], **TOLERANCE)
            decoded = tokenizer.decode(latents, encoding.size)
        torch.testing.assert_close(scale * decoded, given["reconstruction"], **TOLERANCE)


@needs_references
@pytest.mark.parametrize("file", ["vidtok_fsq_causal_888_v1_1", "vidtok_kl_causal_488_v1_1"])
def test_reference_files_in_pieces(file: str) -> None:
    """The authors encode a video in pieces as whole; their decoded pieces differ from the whole by up to 0.03, ours do
    not.
    """
    expected = load_file(REFERENCES / f"{file}.safetensors")
    tokenizer = omnitok.load_tokenizer(REFERENCES / f"{file}.safetensors")
    encoder, decoder = tokenizer.encoder_stream(), tokenizer.decoder_stream()
    pieces = [
        encoder.push(piece) for piece in expected["video.input"].split([1, 3, expected["video.input"].shape[2] - 4], 2)
    ]
    pieces.append(encoder.flush())
    tokens = torch.cat([piece.tokens for piece in pieces], dim=2 if pieces[0].codes is None else 1)
    if pieces[0].codes is not None:
        assert torch.equal(tokens, expected["video_in_pieces.indices"])
    else:
        torch.testing.assert_close(tokens, expected["video_in_pieces.latent_mean"], **TOLERANCE)
    frames = [decoder.push(token) for token in tokens.split(1, dim=2 if pieces[0].codes is None else 1)]
    decoded = torch.cat([*frames, decoder.flush()], dim=2)
    torch.testing.assert_close(decoded, expected["video.reconstruction"], **TOLERANCE)


@needs_references
@pytest.mark.parametrize("file", ["vidtok_fsq_causal_888_v1_1", "vidtok_kl_causal_488_v1_1"])
def test_where_the_authors_pieces_differ(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hand each piece the next latent frame as well, and cut off what it gives; but after the first piece, the
    frames that a doubling keeps as the ones before are those of that next latent frame. With it our layers give theirs.
    """
    overlap = 0  # frames of the next latent frame, at the layer at work

    def after_past(layer: Any, x: Tensor, frames: int, memory: Any) -> Tensor:
        past = memory.get(layer, x[:, :, :1].expand(-1, -1, frames, *x.shape[3:]))
        x = torch.cat([past, x], dim=2)
        memory[layer] = x[:, :, : x.shape[2] - overlap][:, :, -frames:].clone()
        return x

    def double(layer: Any, x: Tensor, memory: Any, _: bool) -> Tensor:
        nonlocal overlap
        overlap *= 2
        k, before = layer.first, memory.get(layer)
        if before is None:
            memory[layer] = x[:, :, -k:].clone()
            return torch.cat([vidtok._interpolate(part) for part in x.split(k, dim=2)], dim=2)
        x = torch.cat([before, x], dim=2)
        memory[layer] = x[:, :, -2 * k : -k].clone()
        return vidtok._interpolate(x)[:, :, 2 * k :]

    monkeypatch.setattr(vidtok, "after_past", after_past)
    monkeypatch.setattr(vidtok.DoubleTime, "_double", double)
    expected = load_file(REFERENCES / f"{file}.safetensors")
    tokenizer: Any = omnitok.load_tokenizer(REFERENCES / f"{file}.safetensors")
    latents, memory, frames = expected.get("video.quantized", expected.get("video.latent_mean")), {}, []
    assert latents is not None
    for i in range(latents.shape[2]):
        overlap = 1
        with torch.no_grad():
            frames.append(tokenizer.decoder(latents[:, :, i : i + 2], memory, True)[:, :, : tokenizer.downsample[0]])
    decoded = torch.cat(frames, dim=2)[:, :, tokenizer.downsample[0] - 1 :]
    torch.testing.assert_close(decoded, expected["video_in_pieces.reconstruction"], **TOLERANCE)


# ------------------------------------------------------------------------------------------- what the tokenizers say


@pytest.mark.parametrize(
    ("name", "vocab_size", "latent_channels", "bits", "downsample", "causal"),
    [
        ("vidtok_fsq", 8**5, 5, 15.0, (8, 8, 8), True),
        ("vidtok_kl", None, 4, 64.0, (4, 8, 8), True),
        ("cosmos_cv", None, 16, 256.0, (4, 8, 8), True),
        ("cosmos_dv", 64000, 6, math.log2(64000), (4, 8, 8), True),
        ("tats_4x8x8", 128, 16, 7.0, (4, 8, 8), False),
    ],
)
def test_what_they_say_of_themselves(
    name: str, vocab_size: int | None, latent_channels: int, bits: float, downsample: tuple[int, ...], causal: bool
) -> None:
    tokenizer = build_video_peer(name)
    assert (tokenizer.vocab_size, tokenizer.latent_channels) == (vocab_size, latent_channels)
    assert tokenizer.bits_per_token == pytest.approx(bits)
    assert (tokenizer.downsample, tokenizer.causal) == (downsample, causal)
    assert tokenizer.is_discrete == (vocab_size is not None)


@pytest.mark.parametrize("name", VIDEO_PEERS)
@pytest.mark.parametrize("size", [(1, 8, 8), (2, 9, 16), (5, 3, 20), (8, 17, 8), (10, 8, 1)])
def test_any_size_and_length(name: str, size: tuple[int, int, int]) -> None:
    tokenizer, x = build_video_peer(name), video(*size)
    encoding = tokenizer.encode(x)
    grid = tokenizer.latent_shape(*size)
    assert encoding.size == size
    assert encoding.latents.shape == (2, tokenizer.latent_channels, *grid)
    if tokenizer.is_discrete:
        assert encoding.codes is not None
        assert encoding.codes.shape == (2, *grid)
        torch.testing.assert_close(tokenizer.lookup_codes(encoding.codes).movedim(-1, 1), encoding.latents)
    t, h, w = tokenizer.downsample
    whole = tokenizer.decode(encoding.latents)
    assert whole.shape[2:] == (tokenizer.num_frames(grid[0]), grid[1] * h, grid[2] * w)
    assert torch.equal(tokenizer.decode(encoding.latents, encoding.size), whole[..., : size[0], : size[1], : size[2]])
    assert tokenizer.latent_shape(tokenizer.num_frames(grid[0]), *size[1:]) == grid
    assert tokenizer.num_frames(grid[0]) - size[0] in range(t)


def test_tats_refuses_an_image_but_not_a_single_frame() -> None:
    tokenizer = build_video_peer("tats_4x8x8")
    with pytest.raises(OmnitokError, match="TATS takes videos only, 4 frames at a time"):
        tokenizer.encode(torch.zeros(1, 3, 8, 8))
    assert tokenizer(torch.zeros(1, 3, 1, 8, 8)).shape == (1, 3, 1, 8, 8)


# -------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("name", STREAMED)
def test_an_image_is_the_first_frame_and_the_past_does_not_depend_on_the_future(name: str) -> None:
    tokenizer, x = build_video_peer(name), video(17, 16, 8)
    assert isinstance(tokenizer, CausalPeer)
    image, whole = tokenizer.encode(x[:, :, 0]).latents, tokenizer.encode(x).latents
    torch.testing.assert_close(image, whole[:, :, 0], atol=1e-5, rtol=0)
    changed, t = x.clone(), tokenizer.downsample[0]
    changed[:, :, 1 + t :] *= -1  # from the third latent frame on
    with torch.no_grad():  # before the quantizer, to which those weights leave few of its codes
        before, after = tokenizer.encode_piece(x, None), tokenizer.encode_piece(changed, None)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert (before[:, :, 2] - after[:, :, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("cuts", [[1] * 19, [5, 0, 3, 11], [19]])
def test_streams_equal_the_whole(name: str, cuts: list[int]) -> None:
    tokenizer, x = build_video_peer(name), video(19, 9, 16)
    whole = tokenizer.encode(x)
    stream = tokenizer.encoder_stream()
    pieces = [stream.push(piece) for piece in x.split(cuts, dim=2)]
    pieces.append(stream.flush())
    assert sum(piece.size[0] for piece in pieces) == 19
    torch.testing.assert_close(torch.cat([p.latents for p in pieces], 2), whole.latents, atol=1e-5, rtol=0)
    if whole.codes is not None:
        assert torch.equal(torch.cat([p.codes for p in pieces if p.codes is not None], 1), whole.codes)
    if whole.posterior is not None:
        logvar = torch.cat([p.posterior.logvar for p in pieces if p.posterior is not None], 2)
        torch.testing.assert_close(logvar, whole.posterior.logvar, atol=1e-5, rtol=0)
    decoder = tokenizer.decoder_stream(whole.size)
    counts = [min(cut, 2) for cut in cuts][: whole.latents.shape[2] // 2]
    frames = [decoder.push(part) for part in whole.latents.split([*counts, whole.latents.shape[2] - sum(counts)], 2)]
    frames.append(decoder.flush())
    expected = tokenizer.decode(whole.latents, whole.size)
    torch.testing.assert_close(torch.cat(frames, dim=2), expected, atol=5e-5, rtol=0)  # of pixels up to 3
    with pytest.raises(ValueError, match="was flushed"):
        decoder.push(whole.latents)


def test_vidtok_streams_hold_no_more_for_longer_videos() -> None:
    tokenizer, x = build_video_peer("vidtok_kl"), video(17, 8, 8)
    encoder, decoder, held = tokenizer.encoder_stream(), tokenizer.decoder_stream(), []
    for piece in (x[:, :, :1], *x[:, :, 1:].split(4, dim=2)):
        decoder.push(encoder.push(piece).latents)
        held.append((encoder.nbytes(), decoder.nbytes()))  # type: ignore[attr-defined]
    assert held[2:] == [held[2]] * 3


def test_cosmos_wavelets_are_undone() -> None:
    x = video(9, 8, 16)
    bands = to_wavelets(x)
    assert bands.shape == (2, 192, 3, 2, 4)
    torch.testing.assert_close(from_wavelets(bands), x)
    torch.testing.assert_close(bands[:, :3, 1], x[:, :, 1:5].unflatten(3, (2, 4)).unflatten(5, (4, 4)).mean((2, 4, 6)))


@pytest.mark.parametrize(
    ("time", "space", "decoder_widths", "fsq"),
    [(4, 8, (8, 16), False), (8, 8, (8, 16, 16), False), (8, 16, (8, 16, 16), True), (4, 8, (8, 16, 16), True)],
)
def test_cosmos_of_each_compression_equals_diffusers(
    time: int, space: int, decoder_widths: tuple[int, ...], fsq: bool
) -> None:
    """diffusers computes the same network (FSQ is ours); the reference files are of 4x8x8 alone."""
    diffusers = pytest.importorskip("diffusers")
    _, config, scales = VIDEO_PEERS["cosmos_dv" if fsq else "cosmos_cv"]
    sizes = {"decoder_widths": decoder_widths, "downsample_time": time, "downsample_space": space}
    build, channels = VIDEO_PEERS["cosmos_cv"][0], 6 if fsq else 16
    tokenizer = build(config | sizes)
    assert isinstance(tokenizer, CausalPeer)
    weights = seeded_weights(tokenizer.state_dict(), scales, seed=2)
    tokenizer.load_state_dict(weights)
    theirs = diffusers.AutoencoderKLCosmos(
        latent_channels=16,
        encoder_block_out_channels=(4, 8, 16, 16),
        decode_block_out_channels=(*decoder_widths, 16),
        num_layers=config.get("blocks", 2),
        spatial_compression_ratio=space,
        temporal_compression_ratio=time,
    ).eval()
    theirs.quant_conv = type(theirs.quant_conv)(16, channels, kernel_size=1, padding=0)
    theirs.post_quant_conv = type(theirs.post_quant_conv)(channels, 16, kernel_size=1, padding=0)
    renamed = _as_diffusers(weights, len(decoder_widths))
    unused = [
        name for name in renamed if "samplers." in name and name not in theirs.state_dict()
    ]  # of steps of nothing
    theirs.load_state_dict({name: tensor for name, tensor in renamed.items() if name not in unused}, strict=True)
    x = video(1 + 2 * time, 2 * space, space)
    with torch.no_grad():
        z = tokenizer.encode_piece(x, None)
        torch.testing.assert_close(z, theirs.quant_conv(theirs.encoder(x)), **TOLERANCE)
        decoded = theirs.decoder(theirs.post_quant_conv(z))
        torch.testing.assert_close(tokenizer.decode_latents(z), decoded, **TOLERANCE)


def _as_diffusers(weights: dict[str, Tensor], decoder_levels: int) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        new = re.sub(r"encoder\.down\.(\d)\.block\.", r"encoder.down_blocks.\1.resnets.", name)
        new = re.sub(r"encoder\.down\.(\d)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", new)
        new = re.sub(
            r"decoder\.up\.(\d)\.block\.", lambda m: f"decoder.up_blocks.{decoder_levels - 1 - int(m[1])}.resnets.", new
        )
        new = re.sub(
            r"decoder\.up\.(\d)\.upsample\.",
            lambda m: f"decoder.up_blocks.{decoder_levels - 1 - int(m[1])}.upsamplers.0.",
            new,
        )
        new = new.replace("mid.block_1.", "mid_block.resnets.0.").replace("mid.block_2.", "mid_block.resnets.1.")
        new = new.replace("mid.attn_1.0.", "mid_block.attentions.0.").replace(
            "mid.attn_1.1.", "mid_block.temp_attentions.0."
        )
        if ".attentions." in new or ".temp_attentions." in new:
            new = re.sub(r"\.([qkv])\.conv3d", r".to_\1", new).replace(".proj_out.conv3d", ".to_out.0")
        new = new.replace("nin_shortcut.conv3d", "conv_shortcut")
        new = re.sub(r"(conv_in|conv_out|conv1|conv2)\.0\.conv3d", r"\1.conv_s", new)
        new = re.sub(r"(conv_in|conv_out|conv1|conv2)\.1\.conv3d", r"\1.conv_t", new).replace(".conv3d.", ".")
        renamed[new] = tensor
    return renamed


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", VIDEO_PEERS)
def test_one_family_claims_a_file(name: str) -> None:
    tokenizer = build_video_peer(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in tokenizer.state_dict().items()}
    assert [family.build for family in peers.FAMILIES if family.recognises(shapes)] == [type(tokenizer)]


@pytest.mark.parametrize("name", VIDEO_PEERS)
def test_bfloat16(name: str) -> None:
    """The quantizers compute in float32 all the same: codes decode to what their latents do."""
    tokenizer = VIDEO_PEERS[name][0](VIDEO_PEERS[name][1])
    tokenizer.load_state_dict(build_video_peer(name).state_dict())
    tokenizer.to(torch.bfloat16).eval()
    encoding = tokenizer.encode(video(5, 8, 8))
    decoded = tokenizer.decode(encoding.latents, encoding.size)
    assert decoded.dtype == torch.bfloat16
    assert decoded.shape == (2, 3, 5, 8, 8)
    if encoding.codes is not None:
        assert torch.equal(tokenizer.decode_codes(encoding.codes, encoding.size), decoded)


FLAGS: dict[str, dict[str, Any]] = {
    "tats_4x8x8": {"downsample": [4, 8, 8], "norm_type": "batch", "padding_type": "replicate"},
    "cosmos_dv": {
        "temporal_compression": 4,
        "spatial_compression": 8,
        "levels": [8, 8, 8, 5, 5, 5],
        "quantizer": "FSQ",
    },
    "vidtok_kl": {
        "encoder_config": {
            "target": "vidtok.modules.model_3dcausal_v1_1.EncoderCausal3DPadding",
            "params": {"norm_type": "layernorm", "init_pad_mode": "replicate", "interpolation_mode": "trilinear"},
        }
    },
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_file_with_flags_a_folder_and_back(name: str, tmp_path: Path) -> None:
    tokenizer = build_video_peer(name)
    training = {"loss.logvar": torch.zeros(1)} if name == "vidtok_kl" else {}
    weights = {f"state_dict.{key}": tensor for key, tensor in (tokenizer.state_dict() | training).items()}
    save_file(weights, tmp_path / "any name.safetensors", metadata={"hyper_parameters": json.dumps(FLAGS[name])})
    loaded = omnitok.load_tokenizer(tmp_path / "any name.safetensors")
    assert isinstance(loaded, PeerTokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    again = omnitok.load_tokenizer(loaded.save_pretrained(tmp_path / "folder"))
    assert again.fingerprint == tokenizer.fingerprint
    x = video(5, 8, 8)
    assert torch.equal(again.encode(x).tokens, tokenizer.encode(x).tokens)
    assert again.latent_shape(9, 17, 16) == tokenizer.latent_shape(9, 17, 16)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("vidtok_kl", '"blocks": 1', '"blocks": 2000000000', "blocks must be at most 64, found 2000000000"),
        (
            "vidtok_kl",
            '"latent_channels": 4',
            '"latent_channels": 5',
            r"conv_out\.conv\.weight is \(8, .* instead of \(10,",
        ),
        ("cosmos_dv", '"width": 4', '"width": 4, "height": 4', "height is not a known field"),
        (
            "cosmos_dv",
            '"downsample_space": 8',
            '"downsample_space": 32',
            "downsample_space must be 4, 8 or 16, found 32",
        ),
        ("tats_4x8x8", '"codebook_size": 128', '"codebook_size": 999999999', "instead of .999999999, 16"),
    ],
)
def test_an_edited_folder_is_one_sentence(name: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    tokenizer = build_video_peer(name)
    family = next(family for family in peers.FAMILIES if family.build is type(tokenizer))
    loaded = family.build(VIDEO_PEERS[name][1])
    loaded.load_state_dict(tokenizer.state_dict())
    loaded.family = family.name
    loaded.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    fields = json.loads(config.read_text())
    text = json.dumps(({"downsample_space": 8} if name == "cosmos_dv" else {}) | fields["config"])
    assert old in text
    fields["config"] = json.loads(text.replace(old, new))
    config.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=f"^{tmp_path}.*{message}") as error:
        omnitok.load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_lightning_checkpoint_of_tats(tmp_path: Path) -> None:
    training = {"codebook.N": torch.ones(64), "image_discriminator.x": torch.ones(1)}
    weights = build_video_peer("tats_2x4x4").state_dict() | training
    flags = {"args": argparse.Namespace(downsample=(2, 4, 4), norm_type="batch"), "lr": 1e-4}
    torch.save({"state_dict": weights, "hyper_parameters": flags, "epoch": 3}, tmp_path / "tats.ckpt")
    loaded = omnitok.load_tokenizer(tmp_path / "tats.ckpt")
    assert loaded.fingerprint == build_video_peer("tats_2x4x4").fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "vidtok_kl_causal_488_4chn_v1_1.ckpt",
        "Cosmos-0.1-Tokenizer-DV4x8x8.pt",
        "Cosmos-0.1-Tokenizer-DV4x8x8/autoencoder.jit",
    ],
)
def test_the_published_name_stands_for_flags(name: str, tmp_path: Path) -> None:
    peer = "vidtok_kl" if name.startswith("vidtok") else "cosmos_dv"
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    torch.save({"state_dict": build_video_peer(peer).state_dict()}, path)
    assert omnitok.load_tokenizer(path).fingerprint == build_video_peer(peer).fingerprint


def test_tats_with_group_norm(tmp_path: Path) -> None:
    tokenizer = TATS({"width": 16, "downsample": (2, 2, 1), "latent_channels": 4, "codebook_size": 8, "norm": "group"})
    tokenizer.load_state_dict(seeded_weights(tokenizer.state_dict(), {"embeddings": 0.2}))
    save_file(tokenizer.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="the weights have 1 steps"):  # without flags it would be 4, 8, 8
        omnitok.load_tokenizer(tmp_path / "a.safetensors")
    torch.save(
        {"state_dict": tokenizer.state_dict(), "hyper_parameters": {"downsample": [2, 2, 1]}}, tmp_path / "a.ckpt"
    )
    loaded = omnitok.load_tokenizer(tmp_path / "a.ckpt")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.latent_shape(5, 7, 6) == loaded.encode(video(5, 7, 6)).latents.shape[2:] == (3, 4, 6)


class Tree(torch.nn.Module):
    """Modules with those weights, as a TorchScript archive has them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for part in dict.fromkeys(name.partition(".")[0] for name in weights):
            inner = {name.partition(".")[2]: tensor for name, tensor in weights.items() if name.startswith(f"{part}.")}
            if inner:
                self.add_module(part, Tree(inner))
            else:
                self.register_buffer(part, weights[part])

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_archive_of_cosmos(tmp_path: Path) -> None:
    path = tmp_path / "Cosmos-0.1-Tokenizer-DV4x8x8" / "autoencoder.jit"
    path.parent.mkdir()
    not_weights = {"quantizer._levels": torch.ones(6), "encoder.patcher3d.wavelets": torch.ones(2)}
    weights = build_video_peer("cosmos_dv").state_dict()
    torch.jit.trace(Tree(weights | not_weights), torch.zeros(1)).save(path)
    assert omnitok.load_tokenizer(path).fingerprint == build_video_peer("cosmos_dv").fingerprint
    torch.jit.trace(Tree({n: w for n, w in weights.items() if not n.startswith("decoder.")}), torch.zeros(1)).save(path)
    with pytest.raises(CheckpointError, match=r"autoencoder\.jit: .*decoder\."):
        omnitok.load_tokenizer(path)


class Runs:
    """What a pickle makes a call of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["tats_2x4x4", "vidtok_kl"])
def test_no_code_of_a_pickle_runs(name: str, tmp_path: Path) -> None:
    weights = build_video_peer(name).state_dict()
    path = tmp_path / "x_v1_1.ckpt"
    flags = {"args": argparse.Namespace(downsample=(2, 4, 4)), "more": Runs(tmp_path / "ran")}
    torch.save({"state_dict": weights, "hyper_parameters": flags, "callbacks": Runs(tmp_path / "ran")}, path)
    assert omnitok.load_tokenizer(path).fingerprint == build_video_peer(name).fingerprint
    torch.save({"state_dict": weights | {"encoder.more": Runs(tmp_path / "ran")}}, path)
    with pytest.raises(CheckpointError, match=r"x_v1_1\.ckpt: the weight 'encoder\.more' is an object of"):
        omnitok.load_tokenizer(path)
    assert not (tmp_path / "ran").exists()


def test_vidtok_with_its_yaml_beside_it(tmp_path: Path) -> None:
    torch.save({"state_dict": build_video_peer("vidtok_kl").state_dict()}, tmp_path / "model.ckpt")
    yaml = (
        "model:\n  params:\n    encoder_config:\n      target: vidtok.modules.model_3dcausal{}.EncoderCausal3DPadding\n"
    )
    (tmp_path / "model.yaml").write_text(yaml.format("_v1_1"))
    assert omnitok.load_tokenizer(tmp_path / "model.ckpt").downsample == (4, 8, 8)
    (tmp_path / "model.yaml").write_text(yaml.format(""))
    with pytest.raises(CheckpointError, match=r"model\.ckpt: VidTok 1\.0 pads .* in the YAML file beside them"):
        omnitok.load_tokenizer(tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text("of: something else")
    with pytest.warns(UserWarning, match=r"model\.ckpt: nothing says if this is VidTok 1\.1, so it is taken for it"):
        omnitok.load_tokenizer(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt").rename(tmp_path / "vidtok_kl_causal_488_4chn.ckpt")
    with pytest.raises(CheckpointError, match=r"488_4chn\.ckpt: VidTok 1\.0 pads .* files have v1_1 in their name"):
        omnitok.load_tokenizer(tmp_path / "vidtok_kl_causal_488_4chn.ckpt")
    folders = [tmp_path / name for name in ("vidtok_kl_causal_488_4chn", "vidtok_kl_causal_488_4chn_v1_1")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(tmp_path / "vidtok_kl_causal_488_4chn.ckpt", folder / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"488_4chn/model\.ckpt: VidTok 1\.0 pads .* or their folder's"):
        omnitok.load_tokenizer(folders[0] / "model.ckpt")
    assert omnitok.load_tokenizer(folders[1] / "model.ckpt").downsample == (4, 8, 8)


@pytest.mark.parametrize(
    ("names", "version"),
    [
        (["vidtok_kl_causal_488_16chn_v1_1"], "1.1"),
        (["VidTok-1.1"], "1.1"),
        (["vidtok_kl_causal_488_4chn", "vidtok_v1_1"], "1.0"),
        (["model", "vidtok_v1_1"], "1.1"),
        (["vidtok_kl_noncausal_488_4chn"], None),
        (["vidtok-kl-non-causal"], None),
        (["model", "torch-1.1"], None),
        (["vidtok_kl_causal_488_1_16chn"], "1.0"),
    ],
)
def test_versions_of_vidtok_by_name(names: list[str], version: str | None) -> None:
    assert vidtok.version_in(*names) == version


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (
            "vidtok_kl",
            {"encoder_config": {"target": "vidtok.modules.model_3dcausal.EncoderCausal3DPadding"}},
            r"VidTok 1\.0 pads .* encoder_config names vidtok\.modules\.model_3dcausal\.Encoder",
        ),
        ("cosmos_dv", {}, "keep the published name"),
        ("cosmos_dv", FLAGS["cosmos_dv"] | {"formulation": "VAE"}, "flag formulation is 'VAE'; only 'AE' can be"),
        (
            "cosmos_dv",
            FLAGS["cosmos_dv"] | {"levels": [8, 8]},
            "fsq_levels must have 6 entries, one per channel, found 2",
        ),
        ("cosmos_dv", FLAGS["cosmos_dv"] | {"spatial_compression": 5}, "downsample_space must be 4, 8 or 16, found 5"),
        ("tats_4x8x8", {"downsample": [4, 8, 6]}, "downsample must be powers of two"),
        ("tats_4x8x8", {"downsample": [2, 4, 4]}, "the weights have 3 steps"),
        ("tats_4x8x8", {"downsample": 8}, "flag downsample must be three whole numbers, found 8"),
        ("tats_4x8x8", {"padding_type": "mirror"}, "padding must be 'replicate'"),
    ],
)
def test_a_file_that_says_too_little_or_something_else(
    name: str, flags: dict[str, Any], message: str, tmp_path: Path
) -> None:
    weights = {f"state_dict.{key}": tensor for key, tensor in build_video_peer(name).state_dict().items()}
    save_file(weights, tmp_path / "a.safetensors", metadata={"hyper_parameters": json.dumps(flags)})
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/a.safetensors: .*{message}") as error:
        omnitok.load_tokenizer(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize(
    "change",
    ["a weight is missing", "the first weight is missing", "a weight is unknown", "a weight has another shape"],
)
def test_weights_that_do_not_fit_are_listed(name: str, change: str, tmp_path: Path) -> None:
    weights = build_video_peer(name).state_dict()
    first = next(key for key in weights if re.match(r"encoder\.conv_(in|first)\.", key))
    named = "decoder.conv_last.conv.bias" if name == "tats_4x8x8" else "decoder.norm_out.norm.bias"
    if change == "a weight is unknown":
        named = "encoder.extra"
        weights[named] = torch.zeros(1)
    elif change == "a weight has another shape":
        weights[named] = torch.zeros(99)
    else:
        named = named if change == "a weight is missing" else first
        del weights[named]
    save_file(
        {f"state_dict.{k}": t for k, t in weights.items()},
        tmp_path / "a.safetensors",
        metadata={"hyper_parameters": json.dumps(FLAGS[name])},
    )
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/a.safetensors: .*{re.escape(named)}"):
        omnitok.load_tokenizer(tmp_path / "a.safetensors")
