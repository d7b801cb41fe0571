"""`omnitok app`: a page in the browser, for this machine alone."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro

from omnitok.cli.failures import UsageError, explain
from omnitok.cli.options import SAID, require_models, resolve_device
from omnitok.cli.report import say
from omnitok.errors import OmnitokError
from omnitok.hub.names import local_weights, pretrained_models
from omnitok.memory import prepare_for_streams

explain_on_page = partial(
    explain, advice="choose a smaller side, fewer frames, samples or tokenizers", fewer="{} samples"
)
"""With what the page's users can choose."""


@dataclass(frozen=True, kw_only=True)
class App:
    """Open a page at http://127.0.0.1:7860 to reconstruct images and videos, edit tokens, generate, predict,
    interpolate, inpaint and compare.

    Only this machine reaches the page; nothing is shared or reported. Several users are served in turn. Uploads are
    bounded, and removed after an hour and when the page is closed (Ctrl-C). Needs gradio: pip install 'omnitok[app]'.
    """

    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL..."), SAID] = ()
    """Tokenizers and generators, as `--model` of other verbs takes them, all loaded when the page opens (default: those
    of the package whose weights are on this machine)."""
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 7860
    """Where on this machine the page is."""
    device: str = "auto"
    """Where to compute: auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""

    def run(self) -> int:
        """Serve until it is interrupted; the exit code."""
        if not 1 <= self.port < 2**16:
            raise UsageError(f"--port must lie in [1, 65535], found {self.port}")
        require_models(*self.model)
        _require_free(self.port)
        prepare_for_streams()
        from omnitok.app.models import load_models
        from omnitok.app.page import build, served

        names = self.model or [name for name in pretrained_models() if local_weights(name)]
        page = build(load_models(names, resolve_device(self.device)), explain_on_page)
        with served(page, self.port) as address:
            say(f"the page is at {address}; Ctrl-C closes it")
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
        say("the page is closed")
        return 0


def _require_free(port: int) -> None:
    """Say at once, before torch is imported, that another program has the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed a moment ago is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OmnitokError(f"--port {port}: is taken on this machine; name another") from error
