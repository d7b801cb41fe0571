"""Build the wheel, and for each interpreter at hand install it as a user would and use it on files made here.

    python .ci/check_wheel.py                 # every Python 3.11 to 3.13 found on PATH or under pyenv
    python .ci/check_wheel.py python3.12      # these

Nothing is pinned but torch, so a release of a dependency that breaks omnitok fails here before a user meets it. The
package is used outside the checkout and without a network: what it needs must be in the wheel, but for a generator
whose weights the wheel leaves out, which are given by OMNITOK_MODELS. The wheel may have 60 MB.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch==2.13.0"
VERSIONS = ("3.11", "3.12", "3.13")
LARGEST_WHEEL = 60e6  # bytes

# Runs in the new environment: files of its own, through every kind of container the README promises.
USE = """
import os, subprocess, sys, pathlib, torch, omnitok
from omnitok.data import read_image, read_video, write_image, write_video
torch.manual_seed(0)
video = torch.nn.functional.interpolate(torch.rand(1, 3, 3, 4, 6), (17, 48, 72), mode="trilinear")[0] * 2 - 1
write_image("image.png", video[:, 0])
for name in ("video.mp4", "video.webm", "video.mkv", "video.gif"):
    write_video(name, video, fps=10)
    assert read_video(name).shape == video.shape, name
tokenizer = omnitok.OmniTokenizer.from_pretrained("omnitok-tiny-vq")
image = read_image("image.png")[None]
with torch.inference_mode():
    assert tokenizer(image).shape == image.shape
verb = lambda *words: subprocess.run([sys.executable, "-m", "omnitok", *words], check=True, stdout=subprocess.DEVNULL)
files = ["image.png", "video.mp4", "video.gif"]
verb("reconstruct", *files, "-o", "again")
verb("encode", *files, "-o", "tokens")
verb("decode", *map(str, sorted(pathlib.Path("tokens").iterdir())), "-o", "decoded")
verb("tokenize", "image.png", "video.mp4", "-o", "shards", "--resolution", "32")
generate = ("generate", "omnitok-tiny-lm", "--count", "1", "-o", "samples")
refused = subprocess.run([sys.executable, "-m", "omnitok", *generate], capture_output=True, text=True)
said = refused.stderr
assert refused.returncode == 1 and "OMNITOK_MODELS" in said and said.count("\\n") == 1, said
os.environ["OMNITOK_MODELS"] = sys.argv[1]
verb(*generate)
import av, numpy, PIL, pydantic
print(f"torch {torch.__version__}, av {av.__version__}, numpy {numpy.__version__}, Pillow {PIL.__version__}")
"""


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """Standard output of a command; its output is shown where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OMNITOK"))}
    environment |= {"HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        sys.exit(f"{' '.join(str(word) for word in words[:6])}: exit code {done.returncode}")
    return done.stdout


def interpreters() -> dict[str, str]:
    """Interpreters that start, by version."""
    found = {}
    for version in VERSIONS:
        candidates = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python3")]
        for candidate in filter(None, candidates):
            if version_of(str(candidate)) == version:
                found[version] = str(candidate)
                break
    return found


def version_of(interpreter: str) -> str | None:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def check(interpreter: str, wheel: Path, folder: Path) -> str:
    """Install the wheel into a new environment and use it; what it ran with."""
    run(interpreter, "-m", "venv", folder / "venv")
    python = folder / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", TORCH)
    run(python, "-m", "pip", "install", "-q", wheel)
    work = folder / "work"
    work.mkdir()
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    installed = run(python, "-c", "import omnitok; print(omnitok.__version__, omnitok.__file__)", cwd=work).split()
    assert installed[0] == declared[1], installed
    assert Path(installed[1]).is_relative_to(folder), installed
    return run(python, "-c", USE, ROOT / "src/omnitok/pretrained_models", cwd=work).strip()


def main() -> None:
    """Build, check every interpreter, say what was found."""
    chosen = {name: name for name in sys.argv[1:]} or interpreters()
    if not chosen:
        sys.exit(f"none of Python {', '.join(VERSIONS)} was found")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "dist", ROOT)
        (wheel,) = (folder / "dist").glob("*.whl")
        size = wheel.stat().st_size
        print(f"{wheel.name}: {size / 1e6:.1f} MB", flush=True)
        if size > LARGEST_WHEEL:
            sys.exit(f"more than {LARGEST_WHEEL / 1e6:.0f} MB: leave weights out (exclude in pyproject.toml)")
        for version, interpreter in chosen.items():
            print(f"Python {version}: {check(interpreter, wheel, folder / version.replace('/', '_'))}", flush=True)
            shutil.rmtree(folder / version.replace("/", "_"))


if __name__ == "__main__":
    main()
