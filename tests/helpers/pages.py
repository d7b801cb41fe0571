"""A page of `omnitok app` in a process of its own, and scripts that use it over HTTP."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.processes import TIMEOUT, heed_interrupts


class RefusedError(Exception):
    """What the page says instead of a result."""


@dataclass(frozen=True)
class ServedPage:
    """Where it is, the process that serves it, and the folder in which all its temporary files lie."""

    address: str
    process: int
    temporary: Path

    def files(self) -> list[Path]:
        """All temporary files."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def upload(self, path: Path) -> dict[str, Any]:
        """A file as `call` takes it."""
        name = path.name.encode()
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + name + b'"\r\n\r\n'
        content = body + path.read_bytes() + b"\r\n--x--\r\n"
        (place,) = json.loads(self._ask("upload", content, "multipart/form-data; boundary=x"))
        return {"path": place, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def call(self, name: str, *values: Any) -> list[Any]:
        """What the button of that name gives.

        Raises:
            RefusedError: the page says an error, or that it is busy.
        """
        started = self._ask(f"call/{name}", json.dumps({"data": values}).encode(), "application/json")
        answer = self._ask(f"call/{name}/{json.loads(started)['event_id']}")
        event, data = answer.strip().split("\n\n")[-1].split("\n")
        found = json.loads(data.removeprefix("data: "))
        if event == "event: error":
            raise RefusedError(found["error"])
        return found

    def fetch(self, file: dict[str, Any]) -> bytes:
        """A file of a result."""
        with urllib.request.urlopen(file["url"], timeout=TIMEOUT) as response:
            return response.read()

    def _ask(self, path: str, content: bytes | None = None, kind: str = "") -> str:
        request = urllib.request.Request(f"{self.address}gradio_api/{path}", content, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(f"{error.code} {error.read().decode()}") from None


@contextlib.contextmanager
def open_page(models: Sequence[str], temporary: Path, **bounds: int) -> Iterator[ServedPage]:
    """Run `omnitok app`; at the end it must close without a complaint and leave nothing behind.

    Args:
        bounds: variables without OMNITOK_APP_, in lower case.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "omnitok", "app", "--port", str(port), "--device", "cpu", "--model", *models]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    environment |= {f"OMNITOK_APP_{name.upper()}": str(value) for name, value in bounds.items()}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        assert "the page is at" in first, first + process.stderr.read()
        yield ServedPage(f"http://127.0.0.1:{port}/", process.pid, temporary)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
        said = process.stderr.read()
        assert said.endswith("omnitok: the page is closed\n"), said
        assert "omnitok/app/" not in said, said  # gradio complains of what it refuses; ours are sentences on the page
        assert not list(temporary.iterdir())
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
