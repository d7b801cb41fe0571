"""Small random tokenizers in folders, and small real media."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.small import SMALL
from omnitok.data import VideoWriter
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig


def _saved(config: TokenizerConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    return OmniTokenizer.from_config(config).eval().save_pretrained(folder)


@pytest.fixture(scope="session")
def vq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(SMALL, tmp_path_factory.mktemp("models") / "vq")


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(replace(SMALL, bottleneck="kl"), tmp_path_factory.mktemp("models") / "vae")


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that cannot stream, like the released ones."""
    config = replace(SMALL, temporal_convolution_layout="released", temporal_window=None)
    return _saved(config, tmp_path_factory.mktemp("models") / "whole")


def moving_gradient(frames: int, width: int, height: int) -> torch.Tensor:
    """(3, frames, height, width) in [-1, 1]."""
    t = torch.arange(frames)[:, None, None]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    channels = [torch.sin((x + 2 * t) / 9), torch.cos((y - t) / 7), torch.sin((x + y + t) / 13)]
    return torch.stack([channel.float().expand(frames, height, width) for channel in channels])


@pytest.fixture
def make_picture() -> Callable[..., Path]:
    def make(path: Path, width: int = 40, height: int = 30) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (moving_gradient(1, width, height)[:, 0].permute(1, 2, 0) + 1) * 127.5
        Image.fromarray(pixels.round().byte().numpy()).save(path)
        return path

    return make


@pytest.fixture
def make_clip() -> Callable[..., Path]:
    def make(path: Path, frames: int = 10, width: int = 48, height: int = 32, fps: float = 10.0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, fps, width, height) as writer:
            writer.write(moving_gradient(frames, width, height))
        return path

    return make


def mux_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    """A sine in AAC."""
    samples = np.sin(np.arange(int(44100 * seconds)) / 20).astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
    for data in (frame, None):
        for packet in stream.encode(data):
            container.mux(packet)


@pytest.fixture
def make_clip_with_sound() -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with av.open(str(path), "w") as container:
            video = container.add_stream("libx264", rate=10)
            sound = container.add_stream("aac", rate=44100)
            video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
            pixels = ((moving_gradient(10, 48, 32).permute(1, 2, 3, 0) + 1) * 127.5).byte().numpy()
            for picture in pixels:
                for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    container.mux(packet)
            for packet in video.encode(None):
                container.mux(packet)
            mux_tone(container, sound, 1.0)
        return path

    return make


@pytest.fixture
def make_sound() -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with av.open(str(path), "w") as container:
            mux_tone(container, container.add_stream("aac", rate=44100), 0.5)
        return path

    return make
