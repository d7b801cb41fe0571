import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import omnitok
from omnitok.errors import CheckpointError
from omnitok.hub.released import convert_checkpoint, kind_of
from omnitok.hub.released.reader import PREFIX, ReleasedCheckpoint, read_released_checkpoint
from omnitok.hub.released.tokenizer import config_from_flags, convert_state_dict, convert_tokenizer
from omnitok.models.bottlenecks import VQConfig

CHECKPOINT = Path(__file__).parents[2] / "parity/data/vqvae_lightning.ckpt"


@pytest.fixture
def released() -> ReleasedCheckpoint:
    return read_released_checkpoint(CHECKPOINT)


def write(path: Path, weights: dict[str, Tensor], flags: dict[str, object]) -> Path:
    whole = {PREFIX + name: tensor.clone() for name, tensor in weights.items()}
    save_file(whole, path, metadata={"hyper_parameters": json.dumps(flags)})
    return path


def test_flags_become_the_released_configuration(released: ReleasedCheckpoint) -> None:
    config = config_from_flags(released.hyper_parameters, released.state_dict)
    assert (config.width, config.heads, config.head_dim, config.window_size) == (32, 2, 16, 4)
    assert (config.encoder_blocks, config.decoder_blocks) == ("ttww", "tttt")
    assert (config.encoder_temporal_blocks, config.decoder_temporal_blocks) == (2, 2)
    assert (config.spatial_position, config.temporal_position) == ("rotary", "none")
    assert (config.temporal_convolution_layout, config.temporal_window, config.pixel_scale) == ("released", None, 0.5)
    assert (config.normalize_context, config.normalize_patches) == (False, True)
    assert config.bottleneck == VQConfig(latent_channels=8, codebook_size=128, normalize_codes=False)
    assert config.causal
    assert config.causal_convolution
    assert not config.streamable


def test_absent_flags(released: ReleasedCheckpoint) -> None:
    flags = dict(released.hyper_parameters)
    for name in ("enc_block", "dec_block", "twod_window_size", "use_vae", "spatial_pos"):
        del flags[name]
    live = {"encoder.enc_spatial_transformer.layers.0.1.spatial_rel_pos_bias.net.2.bias": torch.zeros(2)}
    config = config_from_flags(flags, {**released.state_dict, **live})
    assert (config.encoder_blocks, config.decoder_blocks, config.window_size) == ("tttt", "tttt", 4)
    assert (config.spatial_position, config.temporal_position) == ("relative", "alibi")
    assert config.bottleneck.type == "vq"


def test_both_spellings_of_the_causal_flags(released: ReleasedCheckpoint) -> None:
    flags = dict(released.hyper_parameters)
    flags["casual_in_temporal_transformer"] = flags.pop("causal_in_temporal_transformer")
    flags["casual_in_peg"] = flags.pop("causal_in_peg")
    assert config_from_flags(flags, released.state_dict) == config_from_flags(
        released.hyper_parameters, released.state_dict
    )
    flags["casual_in_peg"] = False
    config = config_from_flags(flags, released.state_dict)
    assert (config.causal, config.causal_convolution) == (True, False)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"heads": None}, "flag heads is missing"),
        ({"heads": "two"}, "flag heads must be a whole number from 0 to 2147483647, found 'two'"),
        ({"heads": True}, "flag heads must be a whole number"),
        ({"ff_mult": float("nan")}, "flag ff_mult must be a number"),
        ({"use_vae": 1}, "flag use_vae must be true or false"),
        ({"enc_block": 3}, "flag enc_block must be text"),
        ({"enc_block": "tnww"}, "encoder_blocks must match pattern"),
        ({"causal_in_peg": None}, "flag causal_in_peg is missing"),
        ({"spatial_pos": "sine"}, "'rel' and 'rope' can be converted"),
        ({"spatial_pos": "rel"}, "lacks relative bias weights"),
        ({"patch_embed": "cnn"}, "only 'linear' can be converted"),
        ({"gen_upscale": 2}, "only None can be converted"),
        ({"l2_code": False}, "only True can be converted"),
        ({"spatial_depth": 10**9}, "more than the"),
        ({"temporal_depth": 10**9}, "more layers than"),
        ({"embedding_dim": 2**31 - 1}, "impossible sizes|another shape"),
        ({"n_codes": 256}, r"bottleneck.codebook is \(128, 8\) instead of \(256, 8\)"),
        ({"temporal_depth": 1}, "unknown"),
        ({"temporal_depth": 3}, "are missing"),
    ],
)
def test_wrong_flags(released: ReleasedCheckpoint, change: dict[str, object], message: str) -> None:
    flags = {**released.hyper_parameters, **change}
    with pytest.raises(CheckpointError, match=message):
        convert_tokenizer(ReleasedCheckpoint(released.state_dict, flags, ""))


def test_unknown_weights_are_listed(released: ReleasedCheckpoint) -> None:
    config = config_from_flags(released.hyper_parameters, released.state_dict)
    extra = {"encoder.new.weight": torch.zeros(1), "decoder.dec_spatial_transformer.layers.0.9.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"2 unknown weights: encoder\.new\.weight, decoder\..*0\.9\.bias"):
        convert_state_dict({**released.state_dict, **extra}, config)


def test_missing_and_misshapen_weights_are_listed(released: ReleasedCheckpoint) -> None:
    config = config_from_flags(released.hyper_parameters, released.state_dict)
    weights = dict(released.state_dict)
    del weights["pre_vq_conv.1.bias"]
    weights["codebook.N"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        convert_state_dict(weights, config)
    assert "1 weights are missing: bottleneck.project_in.bias" in str(caught.value)
    assert "bottleneck.cluster_size is (7,) instead of (128,)" in str(caught.value)


def test_a_beta_that_is_not_zero_is_not_dropped(released: ReleasedCheckpoint) -> None:
    config = config_from_flags(released.hyper_parameters, released.state_dict)
    name = "encoder.enc_spatial_transformer.norm_out.beta"
    with pytest.raises(CheckpointError, match=r"norm_out\.beta is not zero"):
        convert_state_dict({**released.state_dict, name: torch.ones(32)}, config)


def test_codebook_state_and_memory(released: ReleasedCheckpoint) -> None:
    state = dict(released.state_dict)
    state["codebook.N"] = torch.rand(128)
    state["codebook.z_avg"] = torch.rand(128, 8).half()
    tokenizer = convert_tokenizer(ReleasedCheckpoint(state, released.hyper_parameters, ""))
    assert not tokenizer.training
    assert bool(tokenizer.bottleneck.initialised)
    assert torch.equal(tokenizer.bottleneck.cluster_size, state["codebook.N"])
    assert torch.equal(tokenizer.bottleneck.cluster_sum, state["codebook.z_avg"].float())
    state["codebook.N"].zero_()
    assert tokenizer.bottleneck.cluster_size.any()
    assert {tensor.device.type for tensor in tokenizer.state_dict().values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in tokenizer.parameters())


def test_convert_does_not_draw_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    convert_checkpoint(CHECKPOINT)
    assert torch.equal(torch.get_rng_state(), before)


def test_discriminator_and_perceptual_weights_are_set_aside(released: ReleasedCheckpoint) -> None:
    prefixes = ("image_discriminator.", "video_discriminator.", "perceptual_model.")
    assert all(any(name.startswith(prefix) for name in released.state_dict) for prefix in prefixes)
    names = omnitok.convert_checkpoint(CHECKPOINT).state_dict()
    assert not any("discriminator" in name or "perceptual" in name or "context_norm" in name for name in names)


@pytest.mark.parametrize(
    "names, kind",
    [
        (("tok_emb.weight", "blocks.0.ln1.weight"), "language-model"),
        (
            ("transformer.tok_emb.weight", "first_stage_model.pre_vq_conv.1.bias", "pre_vq_conv.1.bias"),
            "language-model",
        ),
        (("x_embedder.proj.weight", "pos_embed"), "dit"),
        (("x_embedder.proj.weight", "temp_embed"), "latte"),
        (("pre_vq_conv.1.weight",), "tokenizer"),
        (("conv1.weight",), None),
    ],
)
def test_kinds(names: tuple[str, ...], kind: str | None) -> None:
    assert kind_of(names) == kind


def test_foreign_weights(tmp_path: Path) -> None:
    path = write(tmp_path / "resnet.safetensors", {"conv1.weight": torch.zeros(2)}, {"depth": 50})
    with pytest.raises(CheckpointError, match=r"resnet\.safetensors: holds no released OmniTokenizer .*conv1\.weight"):
        convert_checkpoint(path)


def test_errors_begin_with_the_path(tmp_path: Path, released: ReleasedCheckpoint) -> None:
    path = write(tmp_path / "a.safetensors", released.state_dict, {**released.hyper_parameters, "heads": 3})
    with pytest.raises(CheckpointError, match=rf"^{path}: "):
        convert_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"none\.ckpt: no such file"):
        convert_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(CHECKPOINT.read_bytes()[:300_000])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt: "):
        convert_checkpoint(tmp_path / "cut.ckpt")
