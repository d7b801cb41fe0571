import dataclasses
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import omnitok
from helpers import small
from helpers.hub import StandIn
from omnitok.errors import CheckpointError
from omnitok.hub import folder as folder_module
from omnitok.hub import names
from omnitok.hub.folder import load_tokenizer, read_description, save_tokenizer
from omnitok.hub.names import TokenInfo, list_models, model_info
from omnitok.hub.released import convert_checkpoint
from omnitok.models.bottlenecks import VQConfig
from omnitok.models.protocol import LatentStatistics, fingerprint
from omnitok.models.tokenizer import OmniTokenizer

CHECKPOINT = Path(__file__).parents[1] / "parity/data/vqvae_lightning.ckpt"
TINY = dataclasses.replace(small.TINY, encoder_blocks="tw", latent_channels=4, codebook_size=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_tokenizer(OmniTokenizer.from_config(TINY), tmp_path / "model")


def edit_config(folder: Path, **changes: object) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **changes}))


# ------------------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("bottleneck", ("vq", "kl"))
def test_round_trip(tmp_path: Path, bottleneck: str) -> None:
    saved = OmniTokenizer.from_config(dataclasses.replace(TINY, bottleneck=bottleneck, latent_channels=4))
    saved.latent_statistics = LatentStatistics((0.5,) * 4, (1.5,) * 4) if bottleneck == "kl" else None
    saved.compatible_tokenizers = ("a" * 64,)
    saved.trained_on = ("image", "video")
    assert saved.save_pretrained(tmp_path / "m") == tmp_path / "m"
    loaded = OmniTokenizer.from_pretrained(tmp_path / "m")
    assert loaded.config == saved.config
    assert loaded.latent_statistics == saved.latent_statistics
    assert loaded.compatible_tokenizers == saved.compatible_tokenizers
    assert loaded.trained_on == saved.trained_on
    assert not loaded.training
    assert fingerprint(loaded) == fingerprint(saved)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    x = torch.rand(1, 3, 3, 8, 8) * 2 - 1
    assert torch.equal(loaded(x), saved.eval()(x))
    fields = json.loads((tmp_path / "m/config.json").read_text())
    assert fields["architecture"] == "OmniTokenizer"
    assert fields["omnitok_version"] == omnitok.__version__


def test_released_checkpoint_through_every_door(tmp_path: Path) -> None:
    converted = convert_checkpoint(CHECKPOINT)
    assert fingerprint(load_tokenizer(CHECKPOINT)) == fingerprint(converted)
    again = load_tokenizer(save_tokenizer(converted, tmp_path / "converted"))
    assert again.config == converted.config
    assert fingerprint(again) == fingerprint(converted)
    assert fingerprint(load_tokenizer(tmp_path / "converted/model.safetensors")) == fingerprint(converted)


def test_dtype_leaves_the_bottleneck_alone(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), dtype=torch.bfloat16)
    assert tokenizer.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in tokenizer.bottleneck.parameters()} == {torch.float32}
    again = load_tokenizer(save_tokenizer(tokenizer, folder.parent / "half"))
    assert again.dtype == torch.float32
    with pytest.raises(ValueError, match="floating point"):
        load_tokenizer(folder, dtype=torch.int32)


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    before = torch.get_rng_state()
    load_tokenizer(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_model_card_is_written_once(folder: Path) -> None:
    assert "joint image-video tokenizer" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("mine")
    save_tokenizer(load_tokenizer(folder), folder)
    assert (folder / "README.md").read_text() == "mine"


def test_failed_save_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(weights: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "save_file", full_disk)
    with pytest.raises(CheckpointError, match=r"cannot be written here \(no space left on device\)"):
        save_tokenizer(load_tokenizer(folder), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_saving_over_a_file(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CheckpointError, match="taken: the model cannot be written here"):
        save_tokenizer(load_tokenizer(folder), tmp_path / "taken")


# -------------------------------------------------------------------------------------------------------------- names


def test_bundled_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "not-a-model").mkdir()
    monkeypatch.setattr(names, "BUNDLED_FOLDER", folder.parent)
    assert list_models()[0] == "model"
    assert "not-a-model" not in list_models()
    assert fingerprint(load_tokenizer("model")) == fingerprint(load_tokenizer(folder))
    info = model_info("model")
    assert (info.name, info.kind, info.bottleneck, info.source) == ("model", "tokenizer", "vq", "bundled")
    tokenizer = load_tokenizer(folder)
    assert info.parameters == sum(p.numel() for p in tokenizer.parameters()) + tokenizer.bottleneck.codebook.numel()
    assert info.description.startswith("A joint image-video tokenizer")


@pytest.fixture
def left_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's folder of models with one named "model", whose weights lie in another folder instead."""
    package = tmp_path / "package"
    shutil.copytree(folder, package / "model", ignore=shutil.ignore_patterns("model.safetensors"))
    monkeypatch.setattr(names, "BUNDLED_FOLDER", package)
    monkeypatch.delenv("OMNITOK_MODELS", raising=False)
    return folder.parent


def test_weights_left_out_are_found_where_the_user_says(left_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_info("model")
    assert (before.parameters, before.source) == (None, "https://huggingface.co/omnitok/model")
    assert before.description.startswith("A joint image-video tokenizer")
    monkeypatch.setenv("OMNITOK_MODELS", str(left_out))
    assert fingerprint(load_tokenizer("model")) == fingerprint(load_tokenizer(left_out / "model"))
    after = model_info("model")
    assert (after.source, after.tokens) == (str(left_out / "model"), before.tokens)
    assert after.parameters is not None


def test_weights_left_out_are_fetched_from_the_hub(left_out: Path, hub: StandIn) -> None:
    hub.add("omnitok/model", left_out / "model", "model.safetensors")
    assert fingerprint(omnitok.load_tokenizer("model")) == fingerprint(load_tokenizer(left_out / "model"))
    asked = {request.rpartition("/")[2] for request in hub.requests}
    assert asked == {"main", "model.safetensors"}  # config.json, which pins it, is the package's


@pytest.mark.parametrize("source", ("folder", "hub"))
def test_other_weights_than_those_left_out_are_refused(
    left_out: Path, source: str, monkeypatch: pytest.MonkeyPatch, hub: StandIn
) -> None:
    weights = left_out / "model/model.safetensors"
    save_file({name: value * 2 for name, value in load_file(weights).items()}, weights)
    if source == "folder":
        monkeypatch.setenv("OMNITOK_MODELS", str(left_out))
    hub.add("omnitok/model", left_out / "model", "model.safetensors")
    for load in (load_tokenizer, names.find_files):
        with pytest.raises(
            CheckpointError, match=r"^model: needs the model\.safetensors .* has the SHA-256 [0-9a-f]{64}"
        ):
            load("model")


def test_weights_left_out_and_no_network_are_one_sentence(left_out: Path, no_hub: None) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer("model")
    said, sha256 = str(caught.value), json.loads((left_out / "model/config.json").read_text())["weights_sha256"]
    assert all(part in said for part in (sha256, "src/omnitok/pretrained_models/model", "OMNITOK_MODELS", "hub"))
    assert "\n" not in said


def test_every_listed_name_has_a_row() -> None:
    assert len(set(list_models())) == len(list_models())
    for name in list_models():
        info = model_info(name)
        assert info.name == name
        assert info.kind in ("tokenizer", "language model", "masked model", "diffusion")
        assert info.bottleneck in (("vq", "kl") if info.kind == "tokenizer" else (None,))
        assert info.description
        assert info.source


@pytest.mark.parametrize("description", ("---\ntags: [x]\n---\n# Title\n\nWhat it is.\nMore.", "# Title\nWhat it is."))
def test_description_is_the_first_prose_of_the_card(folder: Path, description: str) -> None:
    (folder / "README.md").write_text(description)
    assert model_info(str(folder)).description == "What it is."
    (folder / "README.md").unlink()
    assert model_info(str(folder)).description == ""


def test_unknown_name_has_close_matches_and_the_list() -> None:
    for call in (load_tokenizer, model_info):
        with pytest.raises(
            CheckpointError, match=r"did you mean omnitokenizer-imagenet-k600 .*known names are .*hub id"
        ):
            call("omnitokeniser-imagenet-k600")


def test_mistyped_paths_do_not_ask_the_network(tmp_path: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/none", "none/model.safetensors", "model.ckpt", str(tmp_path / "none"), "none", "", "a/b/c"):
        with pytest.raises(CheckpointError):
            load_tokenizer(name)
    assert not hub.requests


# ------------------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize("name", ("config.json", "model.safetensors"))
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"holds no {name}"):
        load_tokenizer(folder)
    with pytest.raises(CheckpointError, match=f"holds no {name}; a model is a folder"):
        model_info(str(folder))


@pytest.mark.parametrize("length", (0, 4, 8, 200, -1))
def test_truncated_weights(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read as a safetensors file"):
        load_tokenizer(folder)


def test_header_that_claims_more_than_the_file_holds(folder: Path) -> None:
    claim = {"encoder.x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    header = json.dumps(claim).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(CheckpointError, match="cannot be read as a safetensors file"):
        load_tokenizer(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + header)
    with pytest.raises(CheckpointError, match="cannot be read as a safetensors file"):
        load_tokenizer(folder)


def test_text_as_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="cannot be read as a safetensors file"):
        load_tokenizer(folder)


def test_foreign_weights_are_named(folder: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="blocks, the weights file holds 1 weights"):
        load_tokenizer(folder)
    save_file({f"conv{i}.weight": torch.zeros(3) for i in range(9)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: encoder\..*9 weights are unknown: conv0\.weight.* and 4 more"):
        load_tokenizer(folder)


def test_shapes_that_differ_are_named(folder: Path) -> None:
    edit_config(folder, codebook_size=64)
    with pytest.raises(CheckpointError, match=r"bottleneck\.codebook is \(32, 4\) instead of \(64, 4\)"):
        load_tokenizer(folder)


def test_wrong_dtype(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["bottleneck.initialised"] = torch.tensor(1.0)
    save_file(weights, folder / "model.safetensors")
    edit_config(folder, weights_sha256=None)
    with pytest.raises(
        CheckpointError, match=r"bottleneck\.initialised has dtype torch\.float32 instead of torch\.bool"
    ):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", ("", "{", "[" * 100_000, "\xff", "no"))
def test_config_that_is_not_json(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as a JSON file"):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", ("[]", "null", "3", '"text"'))
def test_config_that_is_no_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="must hold a JSON object"):
        load_tokenizer(folder)


def test_huge_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(CheckpointError, match="larger than 1048576 bytes"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architecture": "ViT"}, "field architecture is 'ViT', where a tokenizer .'OmniTokenizer'. is wanted"),
        ({"architecture": None}, "field architecture is None"),
        ({"depth": 3, "layers": 4}, "depth is not a known field"),
        ({"width": "16"}, "width must be a valid integer, found '16'"),
        ({"width": 16.0}, "width must be a valid integer"),
        ({"width": True}, "width must be a valid integer"),
        ({"width": 10**30}, "width must be at most 2147483647"),
        ({"width": 0}, "width must be at least 1"),
        ({"causal": 2}, "causal must be a valid boolean"),
        ({"pixel_scale": float("nan")}, "pixel_scale must be a finite number"),
        ({"pixel_scale": 0}, "pixel_scale must be greater than 0"),
        ({"encoder_blocks": ["t"]}, "encoder_blocks must be a valid string"),
        ({"bottleneck": "rounding"}, "bottleneck .*'rounding'.*'vq', 'kl', 'fsq'"),
        ({"bottleneck": 1}, "bottleneck .*, found 1"),
        ({"temporal_window": "5"}, "temporal_window must be a valid integer, found '5'"),
        ({"latent_mean": [0, "x", 0, 0], "latent_std": [1] * 4}, "mean.1 must be a valid number.*, found 'x'"),
        ({"latent_statistics": {"mean": [0.0], "std": [1.0]}}, "must have 4 channels, found 1"),
        ({"latent_statistics": {"mean": [0.0], "std": []}}, "as many means as deviations"),
        ({"compatible_tokenizers": [3]}, "must be a valid string, found 3"),
        ({"trained_on": ["sound"]}, "'image' or 'video', found 'sound'"),
        ({"weights_sha256": 3}, "weights_sha256 must be text"),
    ],
)
def test_config_fields_are_checked(folder: Path, changes: dict[str, object], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_description(folder / "config.json", ("OmniTokenizer",))
    assert str(caught.value).startswith(f"{folder / 'config.json'}: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"codebook_size": 2**31 - 1, "latent_channels": 2**31 - 1},
        {"width": 2**31 - 1},
        {"width": 2**20, "heads": 2**20, "head_dim": 4096},
        {"encoder_temporal_blocks": 2**31 - 1},
        {"encoder_blocks": "t" * 900_000},
        {"window_size": 2**31 - 1, "patch_size": 2**31 - 1},
        {"feedforward_multiple": 1e300},
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(folder: Path, changes: dict[str, object]) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError):
        load_tokenizer(folder)


def test_null_optional_fields_and_absent_fields(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    fields.update(temporal_window=None)
    del fields["bottleneck"]["restart_threshold"], fields["omnitok_version"], fields["weights_sha256"]
    (folder / "config.json").write_text(json.dumps(fields))
    assert load_tokenizer(folder).config.temporal_window is None


def test_files_of_version_0_1(folder: Path) -> None:
    """The bottleneck's fields stood beside the others, with measured statistics and tokenizers of the same tokens."""
    fields = json.loads((folder / "config.json").read_text())
    for name in ("weights_sha256", "tokens", "latent_statistics", "compatible_tokenizers", "trained_on"):
        del fields[name]
    fields.update(bottleneck="vq", latent_channels=4, codebook_size=32, codebook_decay=0.9, normalize_codes=True)
    fields.update(restart_threshold=0.2, latent_mean=[0, 0, 0, 1], latent_std=[1, 2, 3, 4.5], tokens_of=["b" * 64])
    (folder / "config.json").write_text(json.dumps(fields))
    loaded = load_tokenizer(folder)
    bottleneck = VQConfig(latent_channels=4, codebook_size=32, decay=0.9, restart_threshold=0.2)
    assert loaded.config == dataclasses.replace(TINY, bottleneck=bottleneck)
    assert loaded.latent_statistics == LatentStatistics((0.0, 0.0, 0.0, 1.0), (1.0, 2.0, 3.0, 4.5))
    assert loaded.compatible_tokenizers == ("b" * 64,)
    assert loaded.trained_on == ()
    assert model_info(str(folder)).tokens == TokenInfo(32, 4, 5.0, (2, 4, 4))


@pytest.mark.parametrize("place", (0.3, 0.6, 0.99))
def test_a_flipped_bit_of_the_weights_is_said(folder: Path, place: float) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[int(place * len(content))] ^= 4
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged or not the file that was saved"):
        load_tokenizer(folder)


def test_a_save_cut_short_loads_with_either_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    other = OmniTokenizer.from_config(TINY)
    known = {fingerprint(load_tokenizer(folder)), fingerprint(other)}

    write = folder_module._write_config

    def write_once(folder: Path, fields: dict[str, object]) -> None:
        if "weights_sha256" in fields:  # the new weights are there, their hash is not
            raise KeyboardInterrupt
        write(folder, fields)

    monkeypatch.setattr(folder_module, "_write_config", write_once)
    with pytest.raises(KeyboardInterrupt):
        save_tokenizer(other, folder)
    monkeypatch.undo()
    assert fingerprint(load_tokenizer(folder)) in known


def test_the_folder_of_a_run_is_the_model_in_it(folder: Path) -> None:
    run = folder.parent / "run"
    run.mkdir()
    (run / "config.yaml").write_text("name: x")
    folder.rename(run / "model")
    assert fingerprint(load_tokenizer(run)) == fingerprint(load_tokenizer(run / "model"))
    with pytest.raises(CheckpointError, match=r"holds no config\.json; .* its subfolder model"):
        load_tokenizer(folder.parent)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_config(folder: Path) -> None:
    (folder / "config.json").chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(folder)


# -------------------------------------------------------------------------------------------------------- fingerprint


def test_fingerprint_sees_names_values_shapes_and_types() -> None:
    def module(**tensors: torch.Tensor) -> torch.nn.Module:
        made = torch.nn.Module()
        for name, tensor in tensors.items():
            made.register_buffer(name, tensor)
        return made

    x = torch.arange(4.0)
    same = fingerprint(module(a=x, b=x + 1))
    assert same == fingerprint(module(b=x + 1, a=x))
    assert same == fingerprint(module(a=torch.stack([x, x], dim=1)[:, 0], b=x + 1))  # strides are not content
    others = [
        module(a=x, c=x + 1),
        module(a=x + 1, b=x),
        module(a=x.reshape(2, 2), b=x + 1),
        module(a=x.double(), b=x + 1),
        module(a=x),
    ]
    assert same not in {fingerprint(other) for other in others}
    assert len(fingerprint(module(a=torch.tensor(True), b=torch.empty(0), c=x.bfloat16()))) == 64
