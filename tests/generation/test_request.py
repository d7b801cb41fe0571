"""Progress of a call: a callback's, or a bar."""

import re

import pytest

from omnitok.generation.request import ProgressTracker


def test_progress_is_told_or_shown(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    tracker = ProgressTracker(lambda done, total: told.append((done, total)), 4)
    tracker.add(1)
    tracker.add(3)
    assert told == [(1, 4), (4, 4)]
    assert capsys.readouterr().err == ""
    tracker = ProgressTracker(True, 4)
    tracker.add(1)
    tracker.add(3)
    assert re.search(r"sampling: 100%.* 4/4 ", capsys.readouterr().err)
    ProgressTracker(True, -1).add(2)  # a stream without end
    assert re.search(r"sampling: [02]it ", capsys.readouterr().err)
