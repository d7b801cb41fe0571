import json
from pathlib import Path

import pytest
from safetensors.torch import save

from helpers.autoencoders import build
from helpers.video_peers import build_video_peer
from omnitok import list_models
from omnitok.cli import main


def test_table_and_json_list_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["name", *list_models()]

    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list_models()
    released = next(row for row in rows if row["name"] == "omnitokenizer-imagenet-ucf")
    assert released["bits_per_token"] == 13  # 8192 codes
    assert released["bits_per_pixel"] == pytest.approx(13 / 64, abs=1e-6)
    assert released["source"].startswith("https://huggingface.co/")
    vae = next(row for row in rows if row["name"] == "omnitokenizer-imagenet-ucf-vae")
    assert (vae["bottleneck"], vae["bits_per_token"]) == ("VAE", 8 * 16)


def test_any_folder_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer = build_video_peer("cosmos_dv")
    peer.family = "cosmos-video"
    peer.save_pretrained(tmp_path / "cosmos")
    build("AutoencoderKL").save_pretrained(tmp_path / "kl")
    (tmp_path / "kl/diffusion_pytorch_model.safetensors").unlink()  # the configuration is enough
    models = ["omnitok-tiny-lm", "omnitok-tiny-vq", str(tmp_path / "cosmos"), f"diffusers:{tmp_path / 'kl'}"]
    assert main(["models", *models, "--json"]) == 0
    generator, own, cosmos, kl = json.loads(capsys.readouterr().out)
    assert (generator["kind"], generator["patch_size"]) == ("language model", None)
    assert own["bottleneck"] == "VQ"
    assert (cosmos["bottleneck"], cosmos["temporal_patch_size"]) == ("cosmos-video", peer.downsample[0])
    assert cosmos["bits_per_token"] == pytest.approx(peer.bits_per_token, abs=1e-3)
    assert cosmos["parameters"] == sum(weight.numel() for weight in peer.state_dict().values())
    assert (kl["kind"], kl["bottleneck"], kl["temporal_patch_size"]) == ("tokenizer", "AutoencoderKL", 1)
    assert main(["models", *models, "nowhere"]) == 1
    captured = capsys.readouterr()
    assert "cosmos-video" in captured.out
    assert "nowhere: no such model, folder or file" in captured.out + captured.err


@pytest.mark.parametrize("tokens", [{"bits_per_token": "x"}, {"downsample": [4, 8]}, {"downsample": [4, 0, 0]}])
def test_tokens_that_make_no_sense_are_one_sentence(
    tokens: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"vocab_size": 32, "latent_channels": 4, "bits_per_token": 5, "downsample": [4, 8, 8]}
    (tmp_path / "model.safetensors").write_bytes(save({}))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "OmniTokenizer", "tokens": known | tokens}))
    assert main(["models", str(tmp_path), "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert row["error"].startswith(
        f"{tmp_path / 'config.json'}: does not say what its tokens are ({next(iter(tokens))}"
    )
