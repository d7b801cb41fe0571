"""Log-mel features: the right band at the right time, silence, late and short tracks, pieces of any size."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from omnitok.data.log_mel import MELS, RATE, log_mel, mel_bands
from omnitok.errors import MediaError

FPS = 8


def tone(hertz: float, seconds: float, rate: int = RATE, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(
    path: Path,
    sound: np.ndarray | None,
    seconds: float = 2.0,
    rate: int = RATE,
    codec: str = "pcm_s16le",
    delay: float = 0.0,
) -> Path:
    """A video of black frames with mono sound (n,), or stereo (2, n), that begins `delay` seconds after its frames."""
    with av.open(str(path), "w") as container:
        video = None
        if path.suffix not in (".wav", ".flac", ".m4a"):
            video = container.add_stream("mpeg4", rate=FPS)
            video.width = video.height = 16
            video.pix_fmt = "yuv420p"
        audio = None
        if sound is not None:
            audio = container.add_stream(codec, rate=rate)
            audio.layout = "mono" if sound.ndim == 1 else "stereo"
        if video is not None:
            for index in range(round(seconds * FPS)):
                frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            planes = np.atleast_2d(sound)
            for begin in range(0, planes.shape[1], 1024):
                block = np.ascontiguousarray(planes[:, begin : begin + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=audio.layout.name)
                frame.sample_rate = rate
                frame.pts, frame.time_base = begin + round(delay * rate), Fraction(1, rate)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def peaks() -> torch.Tensor:
    """Frequencies of the bands' peaks."""
    return mel_bands(MELS).argmax(0) * RATE / 1024


@pytest.mark.parametrize(("name", "rate", "codec"), [("a.mkv", 16_000, "pcm_s16le"), ("a.mp4", 44_100, "aac")])
@pytest.mark.parametrize("hertz", [220.0, 1000.0, 5000.0])
def test_a_sine_is_heard_in_its_band(tmp_path: Path, name: str, rate: int, codec: str, hertz: float) -> None:
    path = write(tmp_path / name, tone(hertz, 2.0, rate), rate=rate, codec=codec)
    features = log_mel(path, [0.25, 0.5, 1.0, 1.5])
    assert features.shape == (12, MELS)
    assert features.dtype == torch.float32
    bands = features.argmax(1)
    assert (peaks()[bands] - hertz).abs().max() < max(16, 0.06 * hertz)
    assert features.max() == pytest.approx(1, abs=0.06)  # full scale; a third of a decibel by the triangle


def test_level_is_in_decibels(tmp_path: Path) -> None:
    loud = log_mel(write(tmp_path / "a.wav", tone(1000, 1, amplitude=0.9)), [0.2, 0.8])
    quiet = log_mel(write(tmp_path / "b.wav", tone(1000, 1, amplitude=0.09)), [0.2, 0.8])
    assert float(loud.max() - quiet.max()) == pytest.approx(0.5, abs=0.01)  # 20 dB of 80, over a range of 2


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.mp4", "aac")])
def test_a_beep_is_heard_when_it_sounds(tmp_path: Path, name: str, codec: str) -> None:
    sound = np.zeros(4 * 48_000, np.float32)
    sound[round(2.25 * 48_000) : round(2.5 * 48_000)] = tone(2000, 0.25, 48_000)
    path = write(tmp_path / name, np.stack([sound, sound]), seconds=4, rate=48_000, codec=codec)
    heard = log_mel(path, [i / 4 for i in range(17)], per_frame=1).amax(1)
    assert int(heard.argmax()) == 9
    others = torch.cat([heard[:8], heard[11:]])  # beside its neighbours, into which windows and codecs smear
    assert others.max() < heard[9] - 0.5
    late = log_mel(path, [2.0, 2.25, 2.5, 2.75], per_frame=1).amax(1)  # sought, not decoded from the beginning
    torch.testing.assert_close(late, heard[8:11], atol=0.02, rtol=0)  # Matroska's stamps are rounded to 1 ms


def test_a_late_part_of_sound_alone(tmp_path: Path) -> None:
    sound = np.concatenate([tone(hertz, 1) for hertz in (220, 440, 880, 1760, 3520, 5000)])
    path = write(tmp_path / "a.m4a", sound, codec="aac")
    whole = log_mel(path, range(7), per_frame=1)
    torch.testing.assert_close(log_mel(path, [3, 4, 5], per_frame=1), whole[3:5])


def test_a_track_that_begins_late_is_silent_until_then(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", tone(500, 1.0), seconds=3, delay=1.0)
    heard = log_mel(path, [0, 0.5, 0.9, 1.1, 1.5, 1.9, 2.1, 3.0], per_frame=1).amax(1)
    assert heard[[0, 1, 6]].max() < -0.9
    assert heard[[3, 4]].min() > 0.9


def test_silence_and_times_without_sound_are_the_floor(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", np.zeros(RATE, np.float32), seconds=3)
    assert (log_mel(path, [-1, 0, 1, 4]) == -1).all()


def test_cutting_and_parts_do_not_matter(tmp_path: Path) -> None:
    """The sound of a minute, in blocks, and a part of it alone; each part twice as long is the mean of two."""
    sound = np.random.default_rng(0).normal(0, 0.1, 20 * RATE).astype(np.float32)
    path = write(tmp_path / "a.wav", sound)
    whole = log_mel(path, [i / 2 for i in range(41)], per_frame=2)
    part = log_mel(path, [15.0, 15.5, 16.0], per_frame=2)
    torch.testing.assert_close(part, whole[60:64], atol=1e-5, rtol=0)
    double = log_mel(path, [15.0, 15.5, 16.0], per_frame=1)
    power = 10 ** (whole[60:64] * 4 - 4)
    torch.testing.assert_close(10 ** (double * 4 - 4), power.unflatten(0, (2, 2)).mean(1), rtol=1e-3, atol=1e-9)


def test_parts_shorter_than_the_hop_have_the_nearest_window(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(700, 1))
    features = log_mel(path, [0.5, 0.51, 0.52], per_frame=4)
    assert features.shape == (8, MELS)
    assert features.amax(1).min() > 0.9


def test_files_without_sound_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"a\.mp4: has no sound track"):
        log_mel(write(tmp_path / "a.mp4", None), [0, 1])
    with pytest.raises(MediaError, match=r"missing\.mp4"):
        log_mel(tmp_path / "missing.mp4", [0, 1])
    (tmp_path / "b.wav").write_bytes(b"RIFF....WAVE")
    with pytest.raises(MediaError, match=r"b\.wav"):
        log_mel(tmp_path / "b.wav", [0, 1])


@pytest.mark.parametrize("edges", [[], [0], [1, 0], [0, 0], [0, float("nan")], [0, float("inf")], [0, 1e9]])
def test_edges_must_ascend(tmp_path: Path, edges: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        log_mel(tmp_path / "a.wav", edges)


def test_bands_meet_at_their_peaks_and_none_is_empty() -> None:
    for n in (16, 64, 200):
        bands = mel_bands(n)
        assert bands.shape == (513, n)
        assert (bands.amax(0) > 0).all()
        assert (bands.argmax(0).diff() >= 0).all()
    inner = mel_bands(16)[20:400].sum(1)  # between the peaks of the first band and of the last
    torch.testing.assert_close(inner, torch.ones_like(inner), atol=1e-5, rtol=0)
