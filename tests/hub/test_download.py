"""Files of the hub: how often it is asked, and what counts where it cannot be."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers import small
from helpers.hub import StandIn
from omnitok.errors import CheckpointError
from omnitok.hub import download
from omnitok.hub.folder import load_tokenizer, save_tokenizer
from omnitok.hub.names import find_files
from omnitok.hub.released import convert_checkpoint
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer

CHECKPOINT = Path(__file__).parents[1] / "parity/data/vqvae_lightning.ckpt"
FILES = ("config.json", "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(0, tmp_path / "model")


def save(seed: int, folder: Path) -> Path:
    torch.manual_seed(seed)
    config = dataclasses.replace(small.TINY, encoder_blocks="tw", latent_channels=4, codebook_size=32)
    return save_tokenizer(OmniTokenizer.from_config(config), folder)


def asked(hub: StandIn) -> list[str]:
    """The requests since the last call."""
    requests, hub.requests[:] = hub.requests[:], []
    download.forget()
    return requests


def test_a_new_model_is_asked_for_once_and_each_file_fetched(folder: Path, hub: StandIn) -> None:
    hub.add("someone/a-model", folder, *FILES)
    assert fingerprint(load_tokenizer("someone/a-model")) == fingerprint(load_tokenizer(folder))
    resolve = "/someone/a-model/resolve/main/"
    assert asked(hub) == [
        "GET /api/models/someone/a-model/revision/main",
        *(f"{method} {resolve}{file}" for file in FILES for method in ("HEAD", "GET")),
    ]


def test_a_cached_model_takes_one_request_and_within_a_minute_none(folder: Path, hub: StandIn) -> None:
    hub.add("someone/a-model", folder, *FILES)
    files = find_files("someone/a-model")
    asked(hub)
    assert find_files("someone/a-model") == find_files("someone/a-model") == files
    assert asked(hub) == ["GET /api/models/someone/a-model/revision/main"]


def test_what_changed_is_fetched_and_revisions_stay_apart(folder: Path, tmp_path: Path, hub: StandIn) -> None:
    first = hub.add("someone/a-model", folder, *FILES)
    old = fingerprint(load_tokenizer("someone/a-model"))
    hub.add("someone/a-model", save(1, tmp_path / "next"), *FILES)
    download.forget()
    new = fingerprint(load_tokenizer("someone/a-model"))
    assert new != old
    assert fingerprint(load_tokenizer(f"someone/a-model@{first}")) == old
    with pytest.raises(
        CheckpointError, match=r"someone/a-model: this hub repository has no branch, tag or commit nine$"
    ):
        load_tokenizer("someone/a-model@nine")


def test_released_files_come_from_the_hub(hub: StandIn) -> None:
    hub.put("Daniel0724/OmniTokenizer", {"imagenet_k600.ckpt": CHECKPOINT.read_bytes(), "celebahq.ckpt": b"other"})
    assert fingerprint(load_tokenizer("omnitokenizer-imagenet-k600")) == fingerprint(convert_checkpoint(CHECKPOINT))
    with pytest.raises(CheckpointError, match=r"OmniTokenizer: this hub repository holds no ffhq\.ckpt$"):
        load_tokenizer("omnitokenizer-ffhq")


def test_a_model_of_a_library_is_told_before_its_weights_are_fetched(hub: StandIn) -> None:
    hub.put("someone/vae", {"config.json": b'{"_diffusers_version": "0.1"}', "model.safetensors": b"large"})
    with pytest.raises(CheckpointError, match=r"^someone/vae: holds a model of diffusers; say diffusers:someone/vae$"):
        find_files("someone/vae")
    assert not any("model.safetensors" in request for request in asked(hub))


def test_repositories_that_are_not_there_or_not_for_us(
    folder: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("someone/secret", folder, *FILES)
    hub.repositories["someone/secret"].private = True
    assert load_tokenizer("someone/secret")
    download.forget()
    monkeypatch.delenv("HF_TOKEN")
    assert load_tokenizer("someone/secret")  # from the cache, as it always was
    for name in ("someone/nothing", "a/b--c"):
        with pytest.raises(CheckpointError, match=f"^{name}: ") as caught:
            load_tokenizer(name)
        assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_fetched_is_one_sentence(folder: Path, hub: StandIn) -> None:
    hub.add("someone/a-model", folder, *FILES)
    hub.broken = 403
    with pytest.raises(CheckpointError, match=r"^someone/a-model: config\.json cannot be downloaded .*403") as caught:
        load_tokenizer("someone/a-model")
    assert "\n" not in str(caught.value)


def test_out_of_reach_is_one_sentence(no_hub: None) -> None:
    with pytest.raises(CheckpointError, match=r"^someone/a-model: .*cannot be reached for config\.json") as caught:
        load_tokenizer("someone/a-model")
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_costs_one_wait(folder: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that swallows packets: nothing refuses, nothing answers. Two cached models and an absent one."""
    for name in ("someone/a", "someone/b"):
        hub.add(name, folder, *FILES)
        find_files(name)
    download.forget()
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        for name in ("someone/a", "someone/b"):
            assert find_files(name).weights.name == "model.safetensors"
        with pytest.raises(CheckpointError, match="cannot be reached"):
            find_files("someone/absent")
        assert 0.4 < time.monotonic() - started < 1.5


def test_offline_mode_asks_nobody(tmp_path: Path) -> None:
    repository = tmp_path / "hub/models--someone--cached"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0123")
    (repository / "snapshots/0123").mkdir(parents=True)
    for name in FILES:
        (repository / "snapshots/0123" / name).write_text("{}")
    program = "from omnitok.hub.names import find_files; print(find_files('someone/cached').weights)"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(repository / "snapshots/0123/model.safetensors"), done.stderr
