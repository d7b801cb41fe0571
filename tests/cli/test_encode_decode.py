import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from omnitok.cli import main
from omnitok.data import VideoReader, read_image, read_video
from omnitok.data.token_file import open_tokens
from omnitok.errors import CheckpointError
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer

Make = Callable[..., Path]


def run(capsys: pytest.CaptureFixture[str], verb: str, *line: object) -> tuple[int, list[dict[str, Any]], str]:
    code = main([verb, *map(str, line), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("folder, name", [("vq_folder", "codes"), ("vae_folder", "latents"), ("whole_folder", "codes")])
@pytest.mark.parametrize("tile", [None, 64])
def test_there_and_back(
    folder: str,
    name: str,
    tile: int | None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_picture: Make,
    make_clip: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = request.getfixturevalue(folder)
    options = ("--model", model, *(("--tile", tile) if tile else ()))
    picture, clip = make_picture(tmp_path / "a.jpg", 101, 90), make_clip(tmp_path / "b.mp4", 10, 102, 90)
    code, rows, _ = run(capsys, "encode", picture, clip, *options, "-o", tmp_path / "tokens")
    assert code == 0
    assert all(list(row)[:3] == ["input", "output", "shape"] and "seconds" in row for row in rows)

    tokenizer = OmniTokenizer.from_pretrained(model)
    for row, original in zip(rows, (read_image(picture), read_video(clip)), strict=True):
        with torch.no_grad():
            encoding = tokenizer.encode(original[None], tile=tile)
        expected = encoding.latents if encoding.codes is None else encoding.codes
        ((found_name, found),) = load_file(row["output"]).items()
        assert found_name == name
        assert list(found.shape) == row["shape"]
        assert found.dtype == (torch.int16 if name == "codes" else torch.float32)
        torch.testing.assert_close(found.to(expected.dtype), expected[0], atol=1e-5, rtol=0)
        metadata = metadata_of(Path(row["output"]))
        assert metadata["model_sha256"] == fingerprint(tokenizer)
        assert metadata["model"] == str(model)
        assert metadata["source"] == Path(row["input"]).name
        size = tuple(int(metadata[key]) for key in ("frames", "height", "width"))
        assert size == encoding.size

    code, rows, _ = run(capsys, "decode", tmp_path / "tokens", *options, "-o", tmp_path / "back")
    assert code == 0
    assert [row["shape"] for row in rows] == [[3, 90, 101], [3, 10, 90, 102]]
    run(capsys, "reconstruct", picture, clip, *options, "-o", tmp_path / "direct")
    torch.testing.assert_close(
        read_image(tmp_path / "back/a.png"), read_image(tmp_path / "direct/a.png"), atol=1.01 / 127.5, rtol=0
    )
    back = read_video(tmp_path / "back/b.mp4")
    assert back.shape == (3, 10, 90, 102)
    assert (back - read_video(tmp_path / "direct/b.mp4")).abs().mean() < 0.05  # H.264 of noise
    with VideoReader(tmp_path / "back/b.mp4") as reader:
        assert reader.fps == pytest.approx(10)


def test_half_precision_latents(
    vae_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png")
    line = (picture, "--model", vae_folder, "--latent-dtype", "float16", "-o", tmp_path / "t.safetensors")
    assert run(capsys, "encode", *line)[0] == 0
    assert load_file(tmp_path / "t.safetensors")["latents"].dtype == torch.float16
    assert run(capsys, "decode", tmp_path / "t.safetensors", "--model", vae_folder, "-o", tmp_path / "r.png")[0] == 0


def test_precision_of_the_computation_does_not_change_who_the_model_is(
    vq_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png")
    line = (picture, "--model", vq_folder, "--dtype", "bfloat16", "-o", tmp_path / "t")
    assert run(capsys, "encode", *line)[0] == 0
    assert run(capsys, "decode", tmp_path / "t", "--model", vq_folder, "-o", tmp_path / "r")[0] == 0


def test_a_gif_comes_back_as_one(
    vq_folder: Path, tmp_path: Path, make_clip: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "a.gif", 4)
    run(capsys, "encode", clip, "--model", vq_folder, "-o", tmp_path / "t")
    _, (row,), _ = run(capsys, "decode", tmp_path / "t", "--model", vq_folder, "-o", tmp_path / "r")
    assert row["output"] == str(tmp_path / "r/a.gif")


def test_tokens_of_another_model_are_refused_by_both_hashes(
    vq_folder: Path, vae_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "encode", make_picture(tmp_path / "a.png"), "--model", vq_folder, "-o", tmp_path / "t")
    code, (row,), _ = run(capsys, "decode", tmp_path / "t/a.safetensors", "--model", vae_folder, "-o", tmp_path / "r")
    assert code == 1
    for folder in (vq_folder, vae_folder):
        assert fingerprint(OmniTokenizer.from_pretrained(folder)) in row["error"]
    assert not (tmp_path / "r").exists()


def test_a_tokenizer_with_another_decoder_decodes_the_same_tokens(
    vq_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    other = OmniTokenizer.from_pretrained(vq_folder)
    other.compatible_tokenizers = (fingerprint(other),)
    with torch.no_grad():
        other.decoder.to_image.bias.add_(0.1)
    other.save_pretrained(tmp_path / "other")
    run(capsys, "encode", make_picture(tmp_path / "a.png"), "--model", vq_folder, "-o", tmp_path / "t")
    code, _, _ = run(capsys, "decode", tmp_path / "t", "--model", tmp_path / "other", "-o", tmp_path / "r")
    assert code == 0
    run(capsys, "encode", tmp_path / "a.png", "--model", tmp_path / "other", "-o", tmp_path / "u")
    code, (row,), _ = run(capsys, "decode", tmp_path / "u/a.safetensors", "--model", vq_folder, "-o", tmp_path / "s")
    assert code == 1  # the first does not know of the second
    assert "give the model that made them" in row["error"]


@pytest.mark.parametrize(
    "damage, said",
    [
        ("empty", "cannot be read as a token file"),
        ("text", "cannot be read as a token file"),
        ("truncated", "cannot be read as a token file"),
        ("foreign", "not tokens"),
        ("version", "version"),
        ("metadata", "metadata"),
        ("nonsense", "makes no sense"),
        ("rank", "rank"),
        ("float codes", "F32"),
        ("size", "need tokens of shape"),
        ("too large a code", "codes must lie in"),
        ("negative code", "codes must lie in"),
        ("missing", "no such file"),
    ],
)
def test_bad_token_files(
    damage: str, said: str, vq_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is one sentence that names the file; the good one beside it is decoded."""
    run(capsys, "encode", make_picture(tmp_path / "a.png"), "--model", vq_folder, "-o", tmp_path / "t")
    good, bad = tmp_path / "t/a.safetensors", tmp_path / "bad.safetensors"
    codes, metadata = load_file(good)["codes"], metadata_of(good)
    if damage == "empty":
        bad.touch()
    elif damage == "text":
        bad.write_text("no tokens here, only words")
    elif damage == "truncated":
        bad.write_bytes(good.read_bytes()[:-10])
    elif damage == "foreign":
        save_file({"weight": torch.zeros(3)}, bad)
    elif damage != "missing":
        changed = {
            "version": (codes, {**metadata, "version": "99"}),
            "metadata": (codes, {key: value for key, value in metadata.items() if key != "height"}),
            "nonsense": (codes, {**metadata, "width": "-5"}),
            "rank": (codes[None], metadata),
            "float codes": (codes.float(), metadata),
            "size": (codes, {**metadata, "width": "4000"}),
            "too large a code": (torch.full_like(codes, 64), metadata),
            "negative code": (torch.full_like(codes, -1), metadata),
        }
        tensor, header = changed[damage]
        save_file({"codes": tensor}, bad, header)
    code, rows, err = run(capsys, "decode", bad, good, "--model", vq_folder, "-o", tmp_path / "r")
    assert code == 1
    assert str(bad) in rows[0]["error"]
    assert said in rows[0]["error"]
    assert "internal error" not in err
    assert rows[1]["output"] == str(tmp_path / "r/a.png")
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["a.png"]


def test_latents_that_are_not_finite(
    vae_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "encode", make_picture(tmp_path / "a.png"), "--model", vae_folder, "-o", tmp_path / "t")
    good = tmp_path / "t/a.safetensors"
    save_file({"latents": load_file(good)["latents"] / 0}, tmp_path / "bad.safetensors", metadata_of(good))
    code, (row,), _ = run(capsys, "decode", tmp_path / "bad.safetensors", "--model", vae_folder, "-o", tmp_path / "r")
    assert code == 1
    assert "NaN" in row["error"]


def test_names_that_are_not_utf8_and_hold_percent_signs(
    vq_folder: Path, tmp_path: Path, make_picture: Make, make_clip: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_picture(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    make_clip(tmp_path / "50%discount.mp4", 3)
    code, _, err = run(capsys, "encode", tmp_path, "--model", vq_folder, "-o", tmp_path / "t")
    assert (code, err) == (0, "")
    code, _, err = run(capsys, "decode", tmp_path / "t", "--model", vq_folder, "-o", tmp_path / "r")
    assert (code, err) == (0, "")
    names = {os.fsencode(path.name) for path in (tmp_path / "r").iterdir()}
    assert names == {b"caf\xe9.png", b"50%discount.mp4"}


@pytest.mark.parametrize("fps", ["1e300", "0", "nan", "-1", "9" * 5000])
def test_rates_beyond_all_bounds(fps: str, vq_folder: Path, tmp_path: Path, make_clip: Make, capsys: Any) -> None:
    run(capsys, "encode", make_clip(tmp_path / "a.mp4", 3), "--model", vq_folder, "-o", tmp_path / "t")
    path = tmp_path / "t/a.safetensors"
    save_file(load_file(path), path, {**metadata_of(path), "fps": fps})
    code, (row,), err = run(capsys, "decode", path, "--model", vq_folder, "-o", tmp_path / "r")
    assert code == 1
    assert f"{path}: its metadata makes no sense: fps" in row["error"]
    assert len(row["error"]) < 600
    assert "internal error" not in err


def test_a_file_names_its_model(vq_folder: Path, tmp_path: Path, make_picture: Make, capsys: Any) -> None:
    run(capsys, "encode", make_picture(tmp_path / "a.png"), "--model", vq_folder, "-o", tmp_path / "t")
    path = tmp_path / "t/a.safetensors"
    assert run(capsys, "decode", path, "-o", tmp_path / "r")[0] == 0
    save_file(load_file(path), path, {**metadata_of(path), "model": "somebody/else"})
    code, (row,), _ = run(capsys, "decode", path, "-o", tmp_path / "r")
    assert code == 1
    assert "its model 'somebody/else' is not here: give it with --model" in row["error"]
    assert main(["decode", str(path), "-o", str(tmp_path / "r"), "--device", "tpu"]) == 2  # before any file
    assert capsys.readouterr().err.startswith("omnitok: error: --device must be auto, ")


def tone_begins(path: Path) -> float:
    """Seconds of the first loud packet of a video's sound, against its first frame."""
    with av.open(str(path)) as container:
        start = float(container.streams.video[0].start_time * container.streams.video[0].time_base)
        loud = (frame for frame in container.decode(audio=0) if abs(frame.to_ndarray()).max() > 0.1)
        return float(next(loud).time) - start


def test_sound_comes_back_in_step(vq_folder: Path, tmp_path: Path, make_clip_with_sound: Make, capsys: Any) -> None:
    clip = make_clip_with_sound(tmp_path / "a.mp4")
    assert main(["encode", str(clip), "--model", str(vq_folder), "-o", str(tmp_path / "tokens")]) == 0
    out = tmp_path / "out"
    assert main(["decode", str(tmp_path / "tokens"), "--model", str(vq_folder), "-o", str(out)]) == 0
    assert tone_begins(out / "a.mp4") == pytest.approx(tone_begins(clip), abs=2e-3)


@pytest.mark.parametrize("sound", [torch.zeros(3, dtype=torch.float32), torch.zeros(3, dtype=torch.uint8)])
def test_damaged_sound_is_one_sentence(
    sound: torch.Tensor, vq_folder: Path, tmp_path: Path, make_clip_with_sound: Make, capsys: Any
) -> None:
    clip, file = make_clip_with_sound(tmp_path / "a.mp4"), tmp_path / "tokens.safetensors"
    assert main(["encode", str(clip), "--model", str(vq_folder), "-o", str(file)]) == 0
    save_file(load_file(file) | {"sound": sound}, file, metadata_of(file))
    capsys.readouterr()
    assert main(["decode", str(file), "--model", str(vq_folder), "-o", str(tmp_path / "out.mp4")]) == 1
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "sound" in said
    assert not (tmp_path / "out.mp4").exists()


def test_a_pipe_is_no_token_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with (
        pytest.raises(CheckpointError, match=r"pipe\.safetensors: is no regular file"),
        open_tokens(tmp_path / "pipe.safetensors"),
    ):
        pass
