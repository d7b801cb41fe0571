"""One process, two with DDP and two with FSDP2 learn the same, and continue one another's checkpoints."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from helpers.processes import TIMEOUT, on_two_processes
from helpers.runs import assert_same_losses, rows
from helpers.training import train
from omnitok.hub.folder import load_generator_model
from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import (
    AdversarialConfig,
    AnyGeneratorConfig,
    EngineConfig,
    InitConfig,
    TrainConfig,
    ValidationConfig,
)
from omnitok.training.settings import apply_settings, write_config
from omnitok.training.stopping import Limits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture
def config(small_config: TrainConfig, folder: Path) -> TrainConfig:
    """Quantizer statistics, restarts of half of the codes in every step, discriminators with every term."""
    model = replace(small_config.model, restart_threshold=0.9)
    started = folder / "started"
    if not started.exists():
        torch.manual_seed(0)
        tokenizer = OmniTokenizer.from_config(model).train()
        tokenizer.autoencode(torch.randn(4, 3, 32, 32))  # initialises the codebook
        tokenizer.save_pretrained(started)
    critic = DiscriminatorConfig(channels=8, layers=1, norm="spectral")
    return replace(
        small_config,
        model=model,
        init=InitConfig(str(started)),
        weights={
            "l1": 1.0,
            "commitment": 0.25,
            "entropy": 0.05,
            "image_gan": 0.1,
            "video_gan": 0.1,
            "feature_matching": 0.5,
            "lecam": 0.1,
            "r1": 0.1,
        },
        entropy_temperature=0.5,  # a sharp softmax multiplies what is rounded
        adversarial=AdversarialConfig(image=critic, video=replace(critic, norm="none"), adaptive=True, r1_every=2),
        engine=EngineConfig(precision="float32"),
        optimizer=replace(small_config.optimizer, lr=1e-3),  # what is rounded grows with it
    )


def as_vae(config: TrainConfig) -> TrainConfig:
    """The same with noisy latents, batch norm and noise in the discriminators, in two parts a batch, with Muon, and
    with validation."""
    critic = DiscriminatorConfig(channels=8, layers=1, norm="batch", noise=True)
    weights = {name: weight for name, weight in config.weights.items() if name not in ("commitment", "entropy")}
    return replace(
        config,
        model=replace(config.model, bottleneck="kl"),
        data=replace(config.data, video_batch=4),
        weights=weights | {"kl": 1e-3},
        adversarial=replace(
            config.adversarial, image=critic, video=critic, lr_factor=1.0
        ),  # so that there is noise soon
        optimizer=replace(config.optimizer, name="muon", accumulation=2),
        validation=ValidationConfig(images=config.data.images, samples=3, image_resolution=24),
    )


def assert_same_models(one: Path, other: Path, tolerance: float) -> None:
    a, b = (OmniTokenizer.from_pretrained(out / "model").state_dict() for out in (one, other))
    for name, weight in a.items():
        torch.testing.assert_close(b[name], weight, rtol=tolerance, atol=tolerance, msg=name)


def train_on_two(config: TrainConfig, mode: Literal["ddp", "fsdp"], out: Path, limit: int | None = None) -> None:
    config = replace(config, engine=replace(config.engine, parallel=mode))

    def run(rank: int) -> None:
        train(config, out, resume=True, limits=Limits(limit))

    on_two_processes(run)


def test_one_process_ddp_and_fsdp_learn_the_same(config: TrainConfig, folder: Path) -> None:
    train(config, folder / "one")
    vae = as_vae(config)
    assert set(train(vae, folder / "vae-one").validation) == {"image_psnr", "image_ssim"}
    train(config, folder / "one-then-fsdp", limits=Limits(4))
    train_on_two(config, "ddp", folder / "ddp")
    train_on_two(config, "fsdp", folder / "fsdp")
    train_on_two(config, "ddp", folder / "ddp-parts", limit=4)
    train_on_two(config, "ddp", folder / "ddp-parts")
    train_on_two(config, "fsdp", folder / "fsdp-then-one", limit=4)
    train_on_two(config, "fsdp", folder / "one-then-fsdp")
    train_on_two(vae, "ddp", folder / "vae-ddp")
    train_on_two(vae, "fsdp", folder / "vae-fsdp")
    train(config, folder / "fsdp-then-one", resume=True)

    assert_same_losses(folder / "one", folder / "ddp", 1e-5)
    assert_same_losses(folder / "one", folder / "fsdp", 1e-5)
    assert_same_losses(folder / "ddp", folder / "ddp-parts", 1e-6)
    assert_same_losses(folder / "one", folder / "fsdp-then-one", 1e-5)
    assert_same_losses(folder / "one", folder / "one-then-fsdp", 1e-5)
    for out in ("vae-ddp", "vae-fsdp"):
        assert_same_losses(folder / "vae-one", folder / out, 1e-5)
        assert_same_models(folder / "vae-one", folder / out, 1e-3)
    assert_same_models(folder / "ddp", folder / "ddp-parts", 1e-6)
    for out in ("ddp", "fsdp", "fsdp-then-one", "one-then-fsdp"):
        assert_same_models(folder / "one", folder / out, 1e-3)


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_generators_too(generator_configs: dict[str, AnyGeneratorConfig], tmp_path: Path, kind: str) -> None:
    config = generator_configs[kind]
    if kind == "lm":
        config = apply_settings(config, ["model.dropout=0"])  # each process drops values of its own
    train(config, tmp_path / "one")

    def run(mode: Literal["ddp", "fsdp"], limits: Limits) -> None:
        wrapped = replace(config, engine=replace(config.engine, parallel=mode))
        on_two_processes(lambda rank: train(wrapped, tmp_path / mode, limits=limits).steps)

    run("ddp", Limits())
    run("fsdp", Limits(3))
    train(config, tmp_path / "fsdp", resume=True)  # on one process now
    for mode in ("ddp", "fsdp"):
        assert_same_losses(tmp_path / "one", tmp_path / mode, 1e-5)
        a, b = (load_generator_model(tmp_path / out / "model").model.state_dict() for out in ("one", mode))
        for name, weight in a.items():
            torch.testing.assert_close(b[name], weight, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.slow
def test_torchrun_restarts_from_the_latest_checkpoint(config: TrainConfig, folder: Path) -> None:
    """One of two processes is killed; torchrun starts both again, and `--resume` does the rest."""
    write_config(replace(config, steps=60), folder / "elastic.yaml")
    out = folder / "elastic"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["-m", "omnitok", "train", str(folder / "elastic.yaml"), "--device=cpu", f"--out={out}", "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "torchrun.txt").open("w") as told:
        run = subprocess.Popen([*command, "--checkpoint-every=5"], env=environment, stdout=told, stderr=told)
        try:
            deadline = time.monotonic() + 200
            while not list((out / "checkpoints").glob("step-*")):
                assert run.poll() is None, (folder / "torchrun.txt").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.2)
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            assert run.wait(timeout=TIMEOUT) == 0, (folder / "torchrun.txt").read_text()[-2000:]
        finally:
            run.kill()
            run.wait()
    assert "continuing at step" in (folder / "torchrun.txt").read_text()
    assert [row["step"] for row in rows(out)] == list(range(1, 61))
