"""Thousands of damaged and hostile files: each is read or refused in a sentence, soon, and in little memory.

`OMNITOK_FUZZ=5000` reads so many mutants per reader (a few hundred otherwise), `OMNITOK_FUZZ_SEED` others of them.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuzz.readers import READERS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")

SECONDS = 20
STARTING = 300  # a busy machine takes long to import torch
BYTES = 2 * 2**30
SEED = int(os.environ.get("OMNITOK_FUZZ_SEED", "0"))


class Worker:
    """The process of `fuzz.worker`, started again after each mutant that ends it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the worker

    def read(self, reader: str, count: int, folder: Path) -> Iterator[dict[str, Any]]:
        """What came of each mutant."""
        number = 0
        while number < count:
            process = self._start()
            assert process.stdin is not None
            process.stdin.write(json.dumps([reader, SEED, number, count - number, str(folder)]).encode() + b"\n")
            process.stdin.flush()
            while number < count:
                result = self._answer()
                yield result or {"number": number, "outcome": "killed", "message": self._end(), "grown": 0}
                number += 1
                if result is None:
                    break

    def _answer(self, seconds: float = SECONDS + 10) -> dict[str, Any] | None:
        """The next answer; None where the worker hangs or has died."""
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        return json.loads(line) if line else None

    def _start(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            tests = str(Path(__file__).parents[1])
            path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )
            if self._answer(STARTING) is None:
                pytest.fail(f"the worker did not start: {self._end()}")
        return self.process

    def _end(self) -> str:
        process, self.process = self.process, None
        if process is None:
            return "never started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        code = process.poll()
        process.kill()
        process.communicate()
        if code is None:
            return f"no answer within {SECONDS} s"
        self.errors.seek(0)
        said = self.errors.read()[-1000:].decode(errors="replace")
        return f"the process ended with {code}: {said}"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker._end()
    worker.errors.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a folder: a disk takes longer to write the mutants than we to read them."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("reader", READERS)
def test_each_mutant_is_read_or_refused_in_a_sentence(reader: str, worker: Worker, folder: Path) -> None:
    count = int(os.environ.get("OMNITOK_FUZZ", READERS[reader].count))
    deaths, bad, outcomes = 0, [], {"read": 0, "refused": 0}
    for result in worker.read(reader, count, folder):
        problem = result["message"] if result["outcome"] in ("raw", "killed") else ""
        if result["outcome"] == "refused" and ("\n" in result["message"] or len(result["message"]) > 20_000):
            problem = f"not one sentence: {result['message'][:500]!r}"
        if result["grown"] > BYTES:
            problem = f"took {result['grown'] / 2**30:.1f} GiB; {problem or result['outcome']}"
        if result.get("seconds", 0) > SECONDS:
            problem = f"took {result['seconds']:.0f} s; {problem or result['outcome']}"
        if problem:
            bad.append(f"mutant {result['number']} of {reader!r} (seed {SEED}): {problem}")
            deaths += result["outcome"] == "killed"
            if deaths > 5:
                break
        else:
            outcomes[result["outcome"]] += 1
    kinds: dict[str, list[str]] = {}
    for text in bad:
        kinds.setdefault(text.split("): ", 1)[1][:80], []).append(text)
    summary = "\n".join(f"{len(texts)} x {texts[0]}" for texts in kinds.values())
    assert not bad, f"{len(bad)} of {count}:\n{summary}"
    assert READERS[reader].is_tolerant or outcomes["refused"] > count // 20, (
        f"mutants of {reader!r} are hardly ever damaged: {outcomes}"
    )
