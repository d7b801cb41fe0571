"""Frames keep their times through `reconstruct`, and through `encode` and `decode`."""

import contextlib
import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from omnitok.cli import main
from omnitok.data import VideoReader

CASES = Path(__file__).parents[3] / "shared" / "cases"
FRAME_SECONDS = [2.0, 0.1, 0.1, 1.0]
Road = Callable[[Path, Path, str], Path]


def reconstruct(source: Path, folder: Path, model: str) -> Path:
    assert main(["reconstruct", str(source), "--model", model, "-o", str(folder / "r")]) == 0
    return next((folder / "r").iterdir())


def encode_and_decode(source: Path, folder: Path, model: str) -> Path:
    assert main(["encode", str(source), "--model", model, "-o", str(folder / "t")]) == 0
    assert main(["decode", str(folder / "t"), "-o", str(folder / "r")]) == 0
    return next((folder / "r").iterdir())


ROADS = pytest.mark.parametrize("road", [reconstruct, encode_and_decode])


def times_of(path: Path) -> tuple[list[float], list[float]]:
    """Durations of the frames, and the mean brightness of each."""
    with VideoReader(path) as reader:
        brightness = [float(frame.mean()) for frame in reader]
        return reader.durations, brightness


@pytest.fixture
def animation(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    frames = [Image.fromarray(np.full((32, 48, 3), 60 * i, np.uint8)) for i in range(4)]
    path = tmp_path / f"a{request.param}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[1000 * s for s in FRAME_SECONDS], loop=0)
    return path


@ROADS
@pytest.mark.parametrize("animation", [".gif", ".webp"], indirect=True)
def test_delays_of_animations(animation: Path, vq_folder: Path, tmp_path: Path, road: Road) -> None:
    result = road(animation, tmp_path, str(vq_folder))
    assert times_of(result)[0] == pytest.approx(FRAME_SECONDS, abs=0.011)


@ROADS
def test_frames_of_uneven_length_stay_with_the_sound(vq_folder: Path, tmp_path: Path, road: Road) -> None:
    """Ten frames in the first second, and then a frame per half second: what is shown at 2 s is shown at 2 s."""
    times = [i / 10 for i in range(10)] + [1 + i / 2 for i in range(6)]
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 15 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with contextlib.redirect_stdout(io.StringIO()):
        durations, _ = times_of(road(source, tmp_path, str(vq_folder)))
    found = [sum(durations[:i]) for i in range(len(durations))]
    assert found == pytest.approx(times, abs=0.002)


@ROADS
@pytest.mark.skipif(not CASES.is_dir(), reason="the folder of cases is not here")
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_the_flash_stays_at_two_seconds(name: str, vq_folder: Path, tmp_path: Path, road: Road) -> None:
    result = road(CASES / name, tmp_path, "omnitok-tiny-vq")
    durations, brightness = times_of(result)
    flash = next(number for number, level in enumerate(brightness) if level > 0)
    assert sum(durations[:flash]) == pytest.approx(2.0, abs=0.06)
    assert sum(durations) == pytest.approx(4.0, abs=0.06)
    if road is reconstruct:
        with av.open(str(result)) as container:
            level = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
            rate = container.streams.audio[0].rate
        assert np.argmax(np.abs(level) > 0.1) / rate == pytest.approx(2.0, abs=0.06)
