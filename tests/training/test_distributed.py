"""One process, two with DDP and two with FSDP2 learn the same, and continue one another's checkpoints."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import AdversarialConfig, EngineConfig, InitConfig, TrainConfig
from omnitok.training.settings import write_config
from omnitok.training.stopping import Limits
from omnitok.training.train_tokenizer import train

# In one pair of processes: a whole run with each wrapper, and one of each that stops half-way and is continued.
WORKER = """
import os, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from omnitok.training.settings import apply_settings, read_config
from omnitok.training.stopping import Limits
from omnitok.training.train_tokenizer import train
folder, ports = Path(sys.argv[1]), sys.argv[2:]
def run(mode, out, limit=None, config="config.yaml"):
    config = read_config(folder / config)
    os.environ["MASTER_PORT"] = ports.pop()
    train(apply_settings(config, [f"engine.parallel={mode}"]), folder / out, resume=True, limits=Limits(limit))
run("ddp", "ddp")
run("fsdp", "fsdp")
run("ddp", "ddp-parts", 4)
run("ddp", "ddp-parts")
run("fsdp", "fsdp-then-one", 4)
run("fsdp", "one-then-fsdp")
run("ddp", "vae-ddp", config="vae.yaml")
run("fsdp", "vae-fsdp", config="vae.yaml")
"""
RUNS = 8
TIMING = ("seconds", "pictures_per_second", "frames_per_second", "tflops")


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


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
    )


def as_vae(config: TrainConfig) -> TrainConfig:
    """The same with noisy latents, batch norm and noise in the discriminators, in two parts a batch, and with Muon."""
    critic = DiscriminatorConfig(channels=8, layers=1, norm="batch", noise=True)
    weights = {name: weight for name, weight in config.weights.items() if name not in ("commitment", "entropy")}
    return replace(
        config,
        model=replace(config.model, bottleneck="kl"),
        data=replace(config.data, video_batch=4),
        weights=weights | {"kl": 1e-3},
        adversarial=replace(config.adversarial, image=critic, video=replace(critic, normalize_logits=True)),
        # batch norm of few numbers multiplies what is rounded too
        optimizer=replace(config.optimizer, name="muon", accumulation=2, lr=1e-3),
    )


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def assert_same_losses(one: Path, other: Path, tolerance: float) -> None:
    assert len(rows(one)) == len(rows(other)) == 8
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if name == "medium":
                assert b[name] == value
            elif name not in TIMING:
                assert b[name] == pytest.approx(value, rel=tolerance, abs=tolerance), f"step {a['step']}, {name}"


def assert_same_models(one: Path, other: Path, tolerance: float) -> None:
    a, b = (OmniTokenizer.from_pretrained(out / "model").state_dict() for out in (one, other))
    for name, weight in a.items():
        torch.testing.assert_close(b[name], weight, rtol=tolerance, atol=tolerance, msg=name)


def test_one_process_ddp_and_fsdp_learn_the_same(config: TrainConfig, folder: Path) -> None:
    write_config(config, folder / "config.yaml")
    write_config(as_vae(config), folder / "vae.yaml")
    train(config, folder / "one")
    train(as_vae(config), folder / "vae-one")
    train(config, folder / "one-then-fsdp", limits=Limits(4))
    ports = free_ports(RUNS)
    processes = []
    for rank in ("0", "1"):
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", WORKER, str(folder), *ports]
        processes.append(
            subprocess.Popen(
                command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        told = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], told[0][-2000:]
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
            assert run.wait(timeout=300) == 0, (folder / "torchrun.txt").read_text()[-2000:]
        finally:
            run.kill()
            run.wait()
    assert "continuing at step" in (folder / "torchrun.txt").read_text()
    assert [row["step"] for row in rows(out)] == list(range(1, 61))
