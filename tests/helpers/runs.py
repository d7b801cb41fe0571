"""What a training leaves in its folder, to compare."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

TIMING = ("seconds", "pictures_per_second", "frames_per_second", "tflops")


def rows(out: Path) -> list[dict[str, Any]]:
    """Those of log.jsonl, without what depends on the clock."""
    lines = (out / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING} for line in lines]


def saved_state(out: Path, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    target = out / "state.pt"
    dcp_to_torch_save(out / "checkpoints" / f"step-{step:09d}", target)
    state: dict[str, torch.Tensor] = torch.load(target)
    target.unlink()
    return state


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """Bit for bit: the checkpoints of that step and the logs."""
    a, b = saved_state(one, step), saved_state(other, step)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different
    assert rows(one) == rows(other)


def assert_same_losses(one: Path, other: Path, tolerance: float) -> None:
    """All numbers of the logs, relative to themselves or to 1; norms of gradients, which jump where an activation
    passes a kink, to 1e-3."""
    assert len(rows(one)) == len(rows(other)) > 0
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            allowed = 1e-3 if name.endswith("grad_norm") else tolerance
            expected = value if isinstance(value, str) else pytest.approx(value, rel=allowed, abs=allowed)
            assert b[name] == expected, f"step {a['step']}, {name}"
