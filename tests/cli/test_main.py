import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import omnitok
from omnitok.atomic import atomic_path
from omnitok.cli import VERBS, main, report
from omnitok.cli.app import explain_on_page
from omnitok.cli.failures import explain
from omnitok.cli.models import Models
from omnitok.errors import MediaError, TooLittleMemoryError

COMMON = ["--help", "--device", "--seed", "--json"]
MODEL = [*COMMON, "--model", "--dtype", "--tile", "--ranges"]
FLAGS = {
    "reconstruct": [*MODEL, "--out", "--fps", "--side-by-side"],
    "encode": [*MODEL, "--out", "--fps", "--latent-dtype"],
    "decode": [*MODEL, "--out"],
    "convert": COMMON,
    "export": ["--help", "--out", "--format", "--size", "--frames", "--stream", "--seed", "--json"],
    "push": ["--help", "--private", "--revision", "--message", "--dry-run", "--json"],
    "models": COMMON,
    "demo": [*MODEL, "--out"],
    "app": ["--help", "--model", "--port", "--device"],
    "tokenize": [
        *COMMON,
        "--out",
        "--model",
        "--ranges",
        "--resolution",
        "--frames",
        "--fps",
        "--views",
        "--crop-range",
        "--labels",
        "--captions",
        "--embed",
        "--batch-size",
        "--shard-size",
        "--shard",
        "--engine",
        "--ray-address",
        "--actors",
        "--workers",
        "--resume",
        "--max-errors",
        "--dtype",
        "--latent-dtype",
        "--inspect",
    ],
    "recipes": ["--help", "--json"],
    "train": [
        "--help",
        "--set",
        "--images",
        "--videos",
        "--ranges",
        "--shards",
        "--tokenizer",
        "--out",
        "--init",
        "--resume",
        "--lr",
        "--batch-size",
        "--epochs",
        "--max-steps",
        "--checkpoint-every",
        "--time-limit",
        "--seed",
        "--device",
        "--json",
        "--dry-run",
    ],
    "generate": [
        *COMMON,
        "--guidance",
        "--guidance-interval",
        "--temperature",
        "--top-k",
        "--top-p",
        "--sampler",
        "--steps",
        "--guided-channels",
        "--eta",
        "--spacing",
        "--order",
        "--choice-temperature",
        "--shift",
        "--labels",
        "--text",
        "--embeddings",
        "--negative",
        "--count",
        "--frames",
        "--video",
        "--given",
        "--mark",
        "--inpaint",
        "--mask",
        "--outpaint",
        "--padding",
        "--interpolate",
        "--grid",
        "--npz",
        "--out",
        "--batch-size",
        "--shard",
        "--tokenizer",
        "--dtype",
    ],
    "evaluate": ["--help"],
    "weights": [*COMMON, "--weights-dir", "--fetch"],
    "compare": [
        *COMMON,
        "--protocol",
        "--weights-dir",
        "--batch-size",
        "--data",
        "--models",
        "--no-references",
        "--out",
        "--metrics",
        "--resolution",
        "--frames",
        "--ranges",
        "--pictures",
    ],
}


@pytest.mark.parametrize("verb", VERBS)
def test_flags_are_frozen(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = re.findall(r"^. (?:-\w(?: [A-Z]+)?, )?(--[a-z-]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(shown) == sorted(FLAGS[verb])


@pytest.mark.parametrize("line", [*VERBS, "evaluate fidelity", "evaluate statistics"])
def test_help_says_each_default_once(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line.split(), "--help"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert not re.findall(r"\(default: [^()]*(?:\([^()]*\))?[^()]*\)\.? \(default: [^)]*\)", words)


@pytest.mark.parametrize("line", [*VERBS, "evaluate fidelity", "evaluate statistics"])
def test_help_breaks_lines_only_where_they_are_full(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line.split(), "--help"]) == 0
    lines = [text.rstrip(" │") for text in capsys.readouterr().out.splitlines()]
    for above, below in itertools.pairwise(lines):
        indent = len(below) - len(below.lstrip(" │"))
        if indent > 8 and above[indent:] and above[indent - 2 : indent] == "  ":  # the help of an option goes on
            assert len(above) + 1 + len(below[indent:].split()[0]) > 77, (above, below)


def test_every_verb_is_frozen() -> None:
    assert sorted(VERBS) == sorted(FLAGS)


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from omnitok.cli import VERBS, main\n"
        "codes = [main([verb, '--help']) for verb in VERBS] + [main(['--help'])]\n"
        "sys.exit(any(codes) or bool({'torch', 'numpy', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    "line, said",
    [
        ("", "reconstruct"),
        ("frobnicate", "frobnicate"),
        ("reconstruct", "at least one"),
        ("encode", "at least one"),
        ("decode", "at least one"),
        ("reconstruct a.png --tile many", "--tile"),
        ("reconstruct a.png --tile 0", "--tile"),
        ("reconstruct a.png --tile -8", "--tile"),
        ("reconstruct a.png --fps 0", "--fps"),
        ("reconstruct a.png --fps nan", "--fps"),
        ("reconstruct a.png --dtype float64", "--dtype"),
        ("reconstruct a.png --seed -1", "--seed"),
        ("convert a.ckpt", "OUT"),
        ("push model name", "REPO_ID must be owner/name, found 'name'"),
        ("push model a/b --revision -x", "--revision"),
        ("app --port 65536", "--port must lie in [1, 65535], found 65536"),
        ("tokenize", "at least one"),
        ("tokenize a --shard 2/2", "--shard"),
        ("tokenize a --shard half", "--shard"),
        ("tokenize a --views 0", "--views"),
        ("tokenize a --resolution 64 --views 2 --crop-range 0.9", "--crop-range"),
        ("tokenize a --resolution 64 --views 2 --crop-range nan", "--crop-range"),
        ("tokenize a --resolution 64 --crop-range 1.1", "--views"),
        ("tokenize a --resolution 0", "--resolution must be at least 1, found 0"),
        ("tokenize a --fps nan", "--fps must be a finite number"),
        ("tokenize a --workers -1", "--workers must be at least 0, found -1"),
        ("tokenize a --frames -1", "--frames"),
        ("tokenize a --max-errors -1", "--max-errors"),
        ("tokenize a --engine torchrun", "torchrun --standalone"),
        ("tokenize a --actors 2", "--engine ray"),
    ],
)
def test_nonsense_is_a_usage_error(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_tile_smaller_than_a_window_is_a_usage_error(
    vq_folder: Path, tmp_path: Path, make_picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png")
    out = tmp_path / "out"
    assert main(["reconstruct", str(picture), "--model", str(vq_folder), "--tile", "3", "-o", str(out)]) == 2
    assert "--tile must be at least 32 pixels" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "verb, said",
    [
        ("reconstuct", "did you mean reconstruct?"),
        ("eval", "did you mean evaluate?"),
        ("frobnicate", "the verbs are reconstruct, encode"),
    ],
)
def test_a_mistyped_verb_is_one_sentence(verb: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"omnitok {omnitok.__version__}\n"


def test_the_overview_says_what_each_verb_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown and does in shown for verb, does in VERBS.items())


@pytest.mark.parametrize("stop, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_every_verb_ends_alike_when_it_is_stopped(
    stop: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(self: Models) -> int:
        os.kill(os.getpid(), stop)
        time.sleep(10)
        return 0

    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Models, "run", wait)
    try:
        assert main(["models"]) == code
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert "finished files are kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("verb", ["reconstruct", "encode", "decode"])
def test_missing_inputs_are_told_before_torch_is_imported(verb: str) -> None:
    code = (
        f"import sys; from omnitok.cli import main; code = main(['{verb}', 'a.png', 'b', '--json'])\n"
        "sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert json.loads(done.stdout) == [
        {"input": name, "error": f"{name}: no such file or folder"} for name in ("a.png", "b")
    ]


MISSING = {
    "tokenize missing": "missing: no such file or folder",
    "tokenize missing --inspect": "missing: no such file or folder",
    "tokenize . --model missing": "missing: no such model, folder or file",
    "convert missing.ckpt out": "missing.ckpt: no such file or folder",
    "generate missing": "missing: no such model, folder or file",
    "generate ../missing": "../missing: no such folder or file",
    "generate missing.safetensors": "missing.safetensors: no such file",
    "generate omnitok-tiny-lm --tokenizer missing": "missing: no such model, folder or file",
    "reconstruct . --model missing": "missing: no such model, folder or file",
    "app --model omnitok-tiny-vq missing": "missing: no such model, folder or file",
    "encode . --model ../missing": "../missing: no such folder or file",
    "decode . --model missing": "missing: no such model, folder or file",
    "evaluate reconstruction --data . --model missing": "missing: no such model, folder or file",
    "compare omnitok-tiny-vq missing --data .": "missing: no such model, folder or file",
    "train tiny-lm --tokenizer missing": "missing: no such model, folder or file",
    "evaluate reconstruction --data none": "none: no such file or folder\n",
    "evaluate fidelity --real none --fake .": "none: no such file or folder\n",
    "evaluate compare a --data none": "none: no such file or folder\n",
}


def test_missing_files_and_models_are_told_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import contextlib, io, json, sys; from omnitok.cli import main\n"
        "for line in sys.argv[1:]:\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main(line.split())\n"
        "    print(json.dumps([code, out.getvalue(), 'torch' in sys.modules, err.getvalue()]))"
    )
    command = [sys.executable, "-c", code, *MISSING]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    for (line, said), told in zip(MISSING.items(), done.stdout.splitlines(), strict=True):
        *result, error = json.loads(told)
        assert result == [1, "", False], line
        assert error.startswith(f"omnitok: error: {said}"), line
        assert len(error.splitlines()) == 1, line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line, said",
    [
        ("train tiny --lr x", "--lr must be a number, found 'x'"),
        ("train tiny --batch_size=1.5", "--batch-size must be a whole number, found '1.5'"),
        ("train tiny --lr 1 --lr", "--lr must be a number, found nothing"),
        ("generate m --count 1.0", "--count must be a whole number, found '1.0'"),
        ("generate m --padding 1 x", "--padding must be one or several, each a whole number, found '1 x'"),
        ("generate m --interpolate a --json", "--interpolate must be followed by IMAGE|VIDEO IMAGE|VIDEO, found 'a'"),
        ("tokenize a -o", "--out must be followed by SHARDS, found nothing"),
        ("reconstruct a --dtype half", "--dtype must be float32 or bfloat16, found 'half'"),
        ("generate m --guidance-interval 1", "--guidance-interval must be 2 values, each a number, found '1'"),
        ("generate m --order x", "--order must be confidence or random, found 'x'"),
        ("generate", "give MODEL; `omnitok generate --help` shows what is accepted"),
        ("generate --count 2", "give MODEL; `omnitok generate --help` shows what is accepted"),
        ("generate m --guidance-scale 2", "there is no option --guidance-scale; did you mean --guidance? `omnitok "),
        ("generate --count 2 --guidance-scale 2", "there is no option --guidance-scale; did you mean --guidance? "),
        ("models --models a", "there is no option --models; `omnitok models --help` shows them all"),
        ("export", "give MODEL and --out OUT; `omnitok export --help` shows what is accepted"),
        ("convert a b c", "'c' is one argument too many; `omnitok convert --help` shows what is accepted"),
        (
            "reconstruct a --dvice=cpu",
            "there is no option --dvice; did you mean --device? `omnitok reconstruct --help`",
        ),
        ("train tiny --sets a", "there is no option --sets; did you mean --set? `omnitok train --help` shows them all"),
        ("evaluate", "give one of reconstruction, fidelity, "),
        (
            "evaluate fidelty",
            "there is no verb 'fidelty'; did you mean fidelity? the verbs are reconstruction, ",
        ),
        (
            "evaluate fidelity --fake a",
            "give --real DIR|NPZ; `omnitok evaluate fidelity --help` shows what is accepted",
        ),
        (
            "evaluate fidelity --reel a",
            "there is no option --reel; did you mean --real? `omnitok evaluate fidelity --help`",
        ),
        ("evaluate reconstruction --data a --fake b", "there is no option --fake; did you mean --frames? `omnitok "),
    ],
)
def test_what_cannot_be_parsed_is_one_sentence(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"omnitok: error: {said}")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize("line", ["models", "recipes", "reconstruct a.png", "train tiny"])
def test_a_current_folder_that_is_gone_is_one_sentence(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert main(line.split()) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "omnitok: error: the current folder cannot be used, it may have been removed (no such"
    )
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert main(["--version"]) == 0


def test_names_that_are_not_utf8_can_be_printed(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "omnitok", "reconstruct", os.fsencode(tmp_path) + b"/caf\xe9.png"]
    done = subprocess.run(line, capture_output=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 1
    assert b"caf\\xe9.png" in done.stderr or b"caf\\udce9.png" in done.stderr


@pytest.mark.parametrize("device, code", [("cuda:99", 1), ("toaster", 2)])
def test_devices_that_are_not_there(
    device: str,
    code: int,
    vq_folder: Path,
    tmp_path: Path,
    make_picture: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = make_picture(tmp_path / "a.png")
    assert main(["reconstruct", str(picture), "--model", str(vq_folder), "--device", device]) == code
    captured = capsys.readouterr()
    assert device in captured.err
    assert "cpu" in captured.err
    assert "Traceback" not in captured.err


def test_unknown_model_is_one_sentence(
    tmp_path: Path, make_picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png")
    folder = tmp_path / "no-such-model"
    assert main(["reconstruct", str(picture), "--model", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "no-such-model" in captured.err
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "a.png: the disk is full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "--tile"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory"),
        (MemoryError(), "out of memory"),
        (MediaError("a.png: is odd\nreally"), "a.png: is odd really"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "b.txt"), "b.txt: no such file or directory"),
        (RuntimeError("mat1 and mat2"), "internal error"),
        (ValueError("x" * 3_000_000), "x..."),
    ],
)
def test_explanations(error: Exception, said: str) -> None:
    assert said in explain(error)
    assert "\n" not in explain(error)
    assert len(explain(error)) <= 4000


def test_the_page_has_advice_of_its_own_where_memory_is_short() -> None:
    assert explain(MemoryError(), "choose fewer frames") == "out of memory; choose fewer frames"


def test_what_would_fit_is_called_what_the_reader_calls_it() -> None:
    error = TooLittleMemoryError("8 items at once need 16.0 MB, 10.0 MB are free", 5)
    error.__cause__ = RuntimeError("DefaultCPUAllocator: not enough memory")
    said = [str(error), explain(error), explain_on_page(error)]
    assert [sentence.removeprefix(error.found) for sentence in said] == [
        "; batch_size=5 may fit",
        "; --batch-size 5 may fit",
        "; 5 samples may fit",
    ]
    none = TooLittleMemoryError("1 items at once need 16.0 MB, 10.0 MB are free", 0)
    assert str(none) == explain(none) == f"{none.found}; not even one fits; use a smaller model or fewer frames"


def test_what_is_short_is_seen_through_wrappers() -> None:
    wrapped = MediaError("a.mp4: cannot be written")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert explain(wrapped).startswith("a.mp4: cannot be written: the disk is full")
    assert explain(MediaError("a.mp4: cannot be read as a video: out of memory")).count("out of memory") == 1


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "model.npz") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })')

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert explain(caught.value) == f"{tmp_path / 'model.npz'}: the disk is full; nothing half-written is left"
    assert not list(tmp_path.iterdir())


def test_debugging_shows_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["reconstruct", str(tmp_path), "--model", str(tmp_path / "none")]
    assert main(line) == 1
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("OMNITOK_DEBUG", "1")
    assert main(line) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_command_itself(vq_folder: Path, tmp_path: Path, make_picture: Callable[..., Path]) -> None:
    """Standard output is JSON and nothing else, in a process of its own."""
    make_picture(tmp_path / "in/a.png")
    (tmp_path / "in/bad.jpg").write_bytes(b"no picture")
    line = ["reconstruct", "in", "--model", str(vq_folder), "--json"]
    done = subprocess.run([sys.executable, "-m", "omnitok", *line], cwd=tmp_path, capture_output=True, text=True)
    rows = json.loads(done.stdout)
    assert done.returncode == 1
    assert [row["input"] for row in rows] == [str(Path("in/a.png")), str(Path("in/bad.jpg"))]
    assert "bad.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "omnitok-output/a.png").exists()


def test_work_of_minutes_is_announced_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_LONG", 0)
    with report.frame_bar(Path("a.gif")) as progress:
        progress(1, 20)
        progress(1, 20)
    assert capsys.readouterr().err == "omnitok: note: a.gif: 20 frames will take about 0 minutes\n"
