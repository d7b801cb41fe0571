"""Ray makes the same bytes; without it, or without its cluster, one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from omnitok.errors import MissingExtraError, OmnitokError
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.tokenization.job import TokenizeJob
from omnitok.tokenization.on_ray import _reason, _Restarts, tokenize_on_ray

from .conftest import contents, plan_of


def test_without_ray_it_says_what_to_install(
    media: Path, tokenizer: OmniTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ray\[data\]'"):
        tokenize_on_ray(TokenizeJob(plan_of(media, tokenizer), tmp_path))


def test_a_cluster_that_is_not_there(
    media: Path, tokenizer: OmniTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**_: object) -> None:
        raise ConnectionError("nobody\nanswers")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(OmnitokError, match=r"Ray cannot be reached at ray://host:10001: nobody answers"):
        tokenize_on_ray(TokenizeJob(plan_of(media, tokenizer), tmp_path), address="ray://host:10001")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        ("RuntimeError: the disk: is on fire\nsecond line", "RuntimeError: the disk: is on fire"),
        ("MemoryError", "MemoryError"),
        ("omnitok.errors.CheckpointError: model: has weights 1", "model: has weights 1"),
    ],
)
def test_the_reason_is_that_of_the_task_and_not_that_a_task_failed(raised: str, reason: str) -> None:
    """The text as Ray 2.60 writes it."""
    said = f"""ray::MapWorker(Map(_read)->Map(_Encode)).submit() (pid=1, ip=192.0.2.2)
  File "on_ray.py", line 123, in _read
    RuntimeError: a line of source
{raised}

The above exception was the direct cause of the following exception:

ray::MapWorker(Map(_read)->Map(_Encode)).submit() (pid=1, ip=192.0.2.2)
ray.exceptions.UserCodeException: UDF failed to process a data block.
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
"""
    assert _reason(Exception(said)) == reason


def test_processes_that_die_are_counted_until_a_group_is_finished() -> None:
    restarts = _Restarts(limit=2)
    assert [restarts.add(), restarts.add(), restarts.add()] == [None, None, 3]
    restarts.reset()
    assert restarts.add() is None


@pytest.mark.slow
def test_the_same_bytes(media: Path, model_folder: Path, tmp_path: Path) -> None:
    """In a process of its own, which Ray's threads and warnings die with."""
    pytest.importorskip("ray.data")
    options = ["--model", str(model_folder), "--resolution", "24", "--frames", "5", "--batch-size", "2"]
    options += ["--shard-size", "4", "--max-errors", "2", "--json", "--captions"]
    rows = {}
    for engine in ("local", "ray"):
        line = ["-m", "omnitok", "tokenize", str(media), "-o", str(tmp_path / engine), *options, "--engine", engine]
        done = subprocess.run([sys.executable, *line], capture_output=True, text=True)
        if "Ray cannot be started on this machine: The current node timed out" in done.stderr:
            pytest.skip("this machine is too busy to start Ray within the 30 s that Ray allows")
        assert done.returncode == 0, done.stderr
        rows[engine] = json.loads(done.stdout)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert (tmp_path / "ray/00000/captions.txt").is_file()
    for key in ("items", "captioned", "skipped", "shards", "tokens", "complete", "model_sha256"):
        assert rows["ray"][key] == rows["local"][key]
