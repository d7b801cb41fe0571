import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import omnitok
from helpers.processes import TIMEOUT
from omnitok.distributed import shard

SCRIPT = Path(__file__).parent / "two_processes.py"


def test_two_processes_with_uneven_shares_equal_one(tmp_path: Path) -> None:
    assert omnitok.__file__ is not None
    source = Path(omnitok.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source), "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [str(tmp_path / "meeting"), str(tmp_path / "result")]
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), *arguments], env=environment, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=TIMEOUT)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors

    specification = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    expected = script.measure(script.sample(10), torch.arange(10), 10)
    for rank in (0, 1):
        measured = json.loads((tmp_path / f"result.{rank}").read_text())
        assert measured.pop("shard") == [[0, 2, 4], [1, 3]][rank]
        assert measured.pop("empty share") == 10
        assert measured.keys() == expected.keys()
        for name, value in expected.items():
            assert measured[name] == pytest.approx(value, rel=1e-12, abs=1e-14), name


def test_one_process_has_everything() -> None:
    assert list(shard(3)) == [0, 1, 2]
