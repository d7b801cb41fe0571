"""VQGAN, LlamaGen, IBQ and Open-MAGVIT2: the answers of the authors' code, containers, sizes, bad files."""

import argparse
import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.seeded_weights import seeded_weights
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import omnitok
from omnitok.cli import main
from omnitok.errors import CheckpointError, OmnitokError
from omnitok.models.protocol import fingerprint
from omnitok.peers.base import PeerTokenizer
from omnitok.peers.blocks import Attention
from omnitok.peers.open_magvit2 import OpenMAGVIT2
from omnitok.peers.vqgan import VQGAN

REFERENCES = Path(__file__).resolve().parents[2] / "../shared/reference_peers"
needs_references = pytest.mark.skipif(not REFERENCES.is_dir(), reason="the shared reference tensors are not here")
TOLERANCE = {"atol": 1e-4, "rtol": 0}

_F16 = {"width": 32, "widths": [32, 32, 64, 32, 32], "blocks": 1}
_TABLE = {"z_channels": 32, "latent_channels": 16, "codebook_size": 128, "attention": [4]}
_SIGNS = {"latent_channels": 18}
_LLAMAGEN = {"latent_channels": 8, "codebook_size": 512, "lookup": "cosine"}
_GUMBEL = {"latent_channels": 32, "codebook_size": 96, "lookup": "gumbel", "attention": [3], "widths": [32, 64, 32, 32]}
_VIDEO = {"video": True, "width": 8, "widths": [8, 16, 16, 24], "groups": 8}

PEERS: dict[str, tuple[Callable[[dict[str, Any]], PeerTokenizer], dict[str, Any], float]] = {
    "vqgan": (VQGAN, _F16 | _TABLE, 0.6),
    "gumbel": (VQGAN, _F16 | _TABLE | _GUMBEL, 0.8),
    "llamagen": (VQGAN, _F16 | _TABLE | _LLAMAGEN, 0.5),
    "ibq": (VQGAN, _F16 | _TABLE | {"lookup": "inner product"}, 0.6),
    "open_magvit2": (OpenMAGVIT2, _F16 | _SIGNS, 0.0),
    "open_magvit2_video": (OpenMAGVIT2, _F16 | _SIGNS | _VIDEO, 0.0),
}
"""Name -> class, config and scale of the table of codes, all as in the reference tensors."""

FLAGS = {"ibq": {"use_entropy_loss": True, "l2_normalize": False}, "open_magvit2_video": {"num_groups": 8}}


def llamagen_name(name: str) -> str:
    """What LlamaGen calls a weight of VQGAN's with five levels."""
    name = re.sub(
        r"mid\.(block_1|attn_1|block_2)", lambda m: f"mid.{('block_1', 'attn_1', 'block_2').index(m[1])}", name
    )
    name = re.sub(r"^encoder\.down\.(\d)\.", r"encoder.conv_blocks.\1.", name)
    name = re.sub(r"^decoder\.up\.(\d)\.", lambda m: f"decoder.conv_blocks.{4 - int(m[1])}.", name)
    return re.sub(r"(conv_blocks\.\d)\.block\.", r"\1.res.", name)


@functools.cache
def released(peer: str, seed: int = 1) -> dict[str, Tensor]:
    """The weights of a reference file, under their released names."""
    build, config, scale = PEERS[peer]
    with torch.device("meta"):
        shapes = build(config).state_dict()
    named = {llamagen_name(name) if peer == "llamagen" else name: like for name, like in shapes.items()}
    weights = seeded_weights(named, {"embedding.weight": scale, "embed.weight": scale}, seed)
    return {name: each + 1 if name.endswith("gamma.bias") else each for name, each in weights.items()}


def write(path: Path, peer: str, weights: dict[str, Tensor] | None = None) -> Path:
    """A reference file with other weights."""
    named = {f"state_dict.{name}": each for name, each in (weights or released(peer)).items()}
    save_file(named, path, metadata={"hyper_parameters": json.dumps(FLAGS.get(peer, {}))})
    return path


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PeerTokenizer]:
    """Each of `PEERS`, from its file."""
    folder = tmp_path_factory.mktemp("peers")
    return {peer: omnitok.load_tokenizer(write(folder / f"{peer}.safetensors", peer)) for peer in PEERS}  # type: ignore[misc]


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """One image and the answers of the authors' code: codes, and every 4th or 8th pixel of rows and columns."""
    return load_file(Path(__file__).with_name("image_families.safetensors"))


def noise(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("peer", PEERS)
def test_answers_are_those_of_the_authors_code(
    peer: str, peers: dict[str, PeerTokenizer], golden: dict[str, Tensor]
) -> None:
    tokenizer = peers[peer]
    encoding = tokenizer.encode(golden["image"])
    assert encoding.codes is not None
    assert torch.equal(encoding.codes, golden[f"{peer}.image.codes"].long())
    pixels = tokenizer.decode(encoding.latents, encoding.size)[..., ::4, ::4]
    torch.testing.assert_close(pixels, golden[f"{peer}.image.pixels"], **TOLERANCE)
    if f"{peer}.video.codes" in golden:
        pixels = tokenizer.decode_codes(golden[f"{peer}.video.codes"])[..., ::8, ::8]
        torch.testing.assert_close(pixels, golden[f"{peer}.video.pixels"], **TOLERANCE)


@needs_references
@pytest.mark.parametrize(
    ("file", "answers"),
    [
        ("taming_vqgan_f16.safetensors", None),
        ("taming_vqgan_gumbel_f8.safetensors", None),
        ("taming_lightning.ckpt", "taming_lightning_expected.safetensors"),
        ("llamagen_vq16.safetensors", None),
        ("llamagen_model.pt", "llamagen_model_expected.safetensors"),
        ("llamagen_train.pt", "llamagen_train_expected.safetensors"),
        ("ibq_f16.safetensors", None),
        ("openmagvit2_f16_18bit.safetensors", None),
        ("openmagvit2_video_18bit.safetensors", None),
        ("openmagvit2_lightning.ckpt", "openmagvit2_lightning_expected.safetensors"),
    ],
)
def test_reference_files(file: str, answers: str | None) -> None:
    expected = load_file(REFERENCES / (answers or file))
    tokenizer = omnitok.load_tokenizer(REFERENCES / file)
    for modality in ("image", "video"):
        if f"{modality}.input" in expected:
            encoding = tokenizer.encode(expected[f"{modality}.input"])
            assert torch.equal(encoding.codes, expected[f"{modality}.indices"])
            torch.testing.assert_close(encoding.latents, expected[f"{modality}.quantized"], **TOLERANCE)
            pixels = tokenizer.decode_codes(expected[f"{modality}.indices"], encoding.size)
            torch.testing.assert_close(pixels, expected[f"{modality}.reconstruction"], **TOLERANCE)


def test_the_same_weights_under_another_rule_are_another_tokenizer(peers: dict[str, PeerTokenizer]) -> None:
    vqgan, ibq = peers["vqgan"], peers["ibq"]
    assert fingerprint(vqgan) == fingerprint(ibq)
    assert vqgan.fingerprint != ibq.fingerprint


def test_attention_never_holds_the_scores_of_all_positions() -> None:
    attention, x = Attention(32), noise(1, 32, 8, 8)
    expected = attention(x)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.no_grad():  # raises where that kernel cannot be used
        torch.testing.assert_close(attention(x), expected)


# --------------------------------------------------------------------------------------------- what they say, and sizes


@pytest.mark.parametrize(
    ("peer", "name", "vocab_size", "channels", "downsample"),
    [
        ("vqgan", "VQGAN", 128, 16, (1, 16, 16)),
        ("gumbel", "VQGAN (Gumbel)", 96, 32, (1, 8, 8)),
        ("llamagen", "LlamaGen", 512, 8, (1, 16, 16)),
        ("ibq", "IBQ", 128, 16, (1, 16, 16)),
        ("open_magvit2", "Open-MAGVIT2", 2**18, 18, (1, 16, 16)),
        ("open_magvit2_video", "Open-MAGVIT2", 2**18, 18, (4, 8, 8)),
    ],
)
def test_what_they_say_of_themselves(
    peer: str, name: str, vocab_size: int, channels: int, downsample: tuple[int, ...], peers: dict[str, PeerTokenizer]
) -> None:
    tokenizer = peers[peer]
    assert tokenizer.traits.name == name
    assert (tokenizer.vocab_size, tokenizer.latent_channels, tokenizer.downsample) == (vocab_size, channels, downsample)
    assert tokenizer.bits_per_token == pytest.approx(math.log2(vocab_size))
    assert (tokenizer.is_discrete, tokenizer.causal) == (True, downsample[0] == 1)  # frames go one by one
    if not tokenizer.causal:
        with pytest.raises(OmnitokError, match=f"^{re.escape(name)} cannot stream"):
            tokenizer.encoder_stream()


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("shape", [(2, 3, 17, 40), (1, 3, 2, 32, 9), (1, 3, 6, 8, 17)])
def test_any_size_and_length(peer: str, shape: tuple[int, ...], peers: dict[str, PeerTokenizer]) -> None:
    tokenizer, x = peers[peer], noise(*shape)
    encoding = tokenizer.encode(x)
    assert encoding.codes is not None
    grid = tokenizer.latent_shape(x.shape[2] if x.ndim == 5 else 1, *x.shape[-2:])
    assert encoding.codes.shape == (shape[0], *(grid if x.ndim == 5 else grid[1:]))
    assert torch.equal(tokenizer.lookup_codes(encoding.codes).movedim(-1, 1), encoding.latents)
    assert tokenizer.decode_codes(encoding.codes, encoding.size).shape == x.shape
    whole = tokenizer.decode(encoding.latents)
    assert x.ndim == 4 or whole.shape[2] == tokenizer.num_frames(grid[0])


def test_frames_of_a_video_model_are_repeated_to_fill_a_latent_frame(peers: dict[str, PeerTokenizer]) -> None:
    tokenizer, video = peers["open_magvit2_video"], noise(1, 3, 3, 8, 16)
    filled = torch.cat([video, video[:, :, -1:], video[:, :, -1:]], dim=2)
    assert torch.equal(tokenizer.encode(video).tokens, tokenizer.encode(filled).tokens)
    assert torch.equal(tokenizer(video), tokenizer(filled)[:, :, :3])
    image = tokenizer.encode(video[:, :, 0])
    assert image.codes is not None
    assert torch.equal(image.codes, tokenizer.encode(video[:, :, :1]).tokens[:, 0])


def test_a_single_position_has_no_deviation(peers: dict[str, PeerTokenizer]) -> None:
    with pytest.raises(OmnitokError, match="decodes no single latent position; give it more than 8 pixels a side"):
        peers["open_magvit2_video"](noise(1, 3, 8, 5))


@pytest.mark.parametrize("peer", PEERS)
def test_half_precision_and_damaged_weights(peer: str, tmp_path: Path) -> None:
    tokenizer = omnitok.load_tokenizer(write(tmp_path / "x.safetensors", peer), dtype=torch.bfloat16)
    image = noise(1, 3, 32, 32)
    assert tokenizer(image).shape == image.shape  # type: ignore[operator]
    next(iter(tokenizer.parameters())).data.fill_(math.nan)  # type: ignore[attr-defined]
    with pytest.raises(OmnitokError, match=r"features hold NaN"):
        tokenizer.encode(image)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("peer", PEERS)
def test_a_folder_and_back(peer: str, peers: dict[str, PeerTokenizer], tmp_path: Path) -> None:
    tokenizer, image = peers[peer], noise(1, 3, 32, 32)
    again = omnitok.load_tokenizer(tokenizer.save_pretrained(tmp_path / "folder"))
    assert again.fingerprint == tokenizer.fingerprint
    assert torch.equal(again.encode(image).tokens, tokenizer.encode(image).tokens)
    assert torch.equal(again(image), tokenizer(image))  # type: ignore[operator]


def test_authors_containers(peers: dict[str, PeerTokenizer], tmp_path: Path) -> None:
    training = {"loss.discriminator.main.0.weight": torch.ones(2), "loss.logvar": torch.zeros(())}
    path = tmp_path / "last.ckpt"
    payload: dict[str, object] = {"epoch": 1, "state_dict": released("vqgan") | training, "callbacks": {Path: {"x": 1}}}
    torch.save(payload, path, _use_new_zipfile_serialization=False)
    assert omnitok.load_tokenizer(path).fingerprint == peers["vqgan"].fingerprint
    generator = {f"first_stage_model.{name}": each for name, each in released("vqgan").items()}
    torch.save({"state_dict": generator | {"transformer.tok_emb.weight": torch.ones(2, 2)}}, path)
    assert omnitok.load_tokenizer(path).fingerprint == peers["vqgan"].fingerprint
    statistic = {"quantize.codebook_used": torch.zeros(65536)}
    model, ema = released("llamagen", seed=2) | statistic, released("llamagen") | statistic
    torch.save({"model": model, "ema": ema, "args": argparse.Namespace(vq_model="VQ-16"), "steps": 7}, path)
    assert omnitok.load_tokenizer(path).fingerprint == peers["llamagen"].fingerprint
    save_file(ema, tmp_path / "model.safetensors")  # as the hub's own mixin writes it, beside a config of theirs
    (tmp_path / "config.json").write_text('{"codebook_size": 512}')
    assert omnitok.load_tokenizer(tmp_path).fingerprint == peers["llamagen"].fingerprint


@pytest.mark.parametrize("peer", ["vqgan", "open_magvit2_video"])
def test_convert(
    peer: str, peers: dict[str, PeerTokenizer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = write(tmp_path / "x.safetensors", peer), tmp_path / "folder"
    assert main(["convert", str(file), str(folder), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["output"], row["kind"]) == (str(folder), "tokenizer (VQ)")
    assert row["parameters"] == sum(each.numel() for each in released(peer).values())
    assert omnitok.load_tokenizer(folder).fingerprint == peers[peer].fingerprint
    assert main(["convert", str(folder), str(tmp_path / "again")]) == 1
    assert f"{folder}: is a folder; FILE must be a released checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("peer", ["ibq", "open_magvit2"])
def test_averaged_weights_are_taken(peer: str, peers: dict[str, PeerTokenizer], tmp_path: Path) -> None:
    averages = {f"model_ema.{name.replace('.', '')}": each for name, each in released(peer).items()}
    training = {"loss.discriminator.weight": torch.ones(2), "model_ema.lossdiscriminatorweight": torch.ones(2)}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    weights = released(peer, seed=2) | averages | training | counters
    torch.save({"state_dict": weights}, tmp_path / "x.ckpt")
    tokenizer = omnitok.load_tokenizer(tmp_path / "x.ckpt")
    assert tokenizer.fingerprint == peers[peer].fingerprint
    assert tokenizer.traits == peers[peer].traits  # type: ignore[attr-defined]  # and not those of VQGAN
    del weights["model_ema.decoderconv_inbias"]
    weights["model_ema.more"] = torch.ones(1)
    torch.save({"state_dict": weights}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"missing: decoder\.conv_in\.bias;.*model_ema\.more") as error:
        omnitok.load_tokenizer(tmp_path / "x.ckpt")
    assert "decoder.conv_in.bias (without an average)" in str(error.value)


@pytest.mark.parametrize("name", ["IBQ_pretrain_16384.safetensors", "IBQ-Tokenizer-1024/imagenet256_1024.safetensors"])
def test_ibq_is_known_by_its_name_where_nothing_else_tells(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_file(released("ibq"), tmp_path / name)
    assert omnitok.load_tokenizer(tmp_path / name).config["lookup"] == "inner product"  # type: ignore[attr-defined]


@pytest.mark.parametrize("peer", PEERS)
def test_weights_that_do_not_fit_are_listed(peer: str, tmp_path: Path) -> None:
    conv = "conv_in.conv_1" if "video" in peer else "conv_in"
    for change, message in {
        "decoder.norm_out.bias": r"1 weights are missing: decoder\.norm_out\.bias",
        f"encoder.{conv}.weight": rf"the weight encoder\.{conv}\.weight is missing, from which",
    }.items():
        weights = dict(released(peer))
        del weights[change]
        with pytest.raises(CheckpointError, match=rf"^{tmp_path}/x\.safetensors: .*{message}"):
            omnitok.load_tokenizer(write(tmp_path / "x.safetensors", peer, weights))
    weights = released(peer) | {"encoder.more": torch.ones(1), "decoder.norm_out.bias": torch.ones(7)}
    with pytest.raises(
        CheckpointError, match=r"unknown: encoder\.more; .*norm_out\.bias is \(7,\) instead of \(\d+,\)"
    ):
        omnitok.load_tokenizer(write(tmp_path / "x.safetensors", peer, weights))


@pytest.mark.parametrize(
    ("peer", "weights", "message"),
    [
        ("vqgan", {"quantize.used": torch.arange(9)}, r"codes are renumbered \(quantize\.used has 9 of them\)"),
        ("vqgan", {"encoder.conv_in.weight": torch.ones(33, 3, 3, 3)}, "divisible"),
        ("vqgan", {"encoder.conv_in.weight": torch.ones(32, 1, 3, 3)}, r"\(32, 1, 3, 3\) instead of \(32, 3, 3, 3\)"),
        ("vqgan", {"quantize.embedding.weight": torch.ones(128)}, "must have 2 dimensions"),
        (
            "open_magvit2",
            {"encoder.conv_out.weight": torch.ones(99, 32, 1, 1)},
            "latent_channels must be at most 62, found 99",
        ),
    ],
)
def test_weights_of_something_else(peer: str, weights: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        omnitok.load_tokenizer(write(tmp_path / "x.safetensors", peer, released(peer) | weights))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("peer", "old", "new", "message"),
    [
        ("vqgan", '"euclidean"', '"guess"', "lookup must be 'euclidean'"),
        ("vqgan", '"blocks": 1', '"blocks": 9999999', "blocks must be at most 64"),
        ("open_magvit2", '"groups": 32', '"groups": 0', "groups must be at least 1"),
        ("open_magvit2", '"video": false', '"video": true', "does not fit its config.json"),
    ],
)
def test_an_edited_folder_is_one_sentence(
    peer: str, old: str, new: str, message: str, peers: dict[str, PeerTokenizer], tmp_path: Path
) -> None:
    folder = peers[peer].save_pretrained(tmp_path / "folder")
    text = (folder / "config.json").read_text()
    assert old in text
    (folder / "config.json").write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match=message) as error:
        omnitok.load_tokenizer(folder)
    assert "\n" not in str(error.value)


def test_flags_that_change_the_network_are_refused(tmp_path: Path) -> None:
    named = {f"state_dict.{name}": each for name, each in released("ibq").items()}
    save_file(named, tmp_path / "x.safetensors", metadata={"hyper_parameters": '{"l2_normalize": true}'})
    with pytest.raises(CheckpointError, match=r"flag l2_normalize is True; only False can be converted"):
        omnitok.load_tokenizer(tmp_path / "x.safetensors")
