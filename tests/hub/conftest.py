"""The hub's stand-in, as huggingface_hub finds it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from helpers.hub import TOKEN, StandIn
from omnitok.hub import download


def point_to(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Let huggingface_hub ask this address, with a cache and a token of its own."""
    download.forget()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn() as server:
        point_to(monkeypatch, server.url, tmp_path / "hub-cache")
        yield server
    download.forget()


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub-cache")
    yield
    download.forget()
