"""Killed at any moment, a command leaves nothing half-written, and nothing behind once it has run again.

`OMNITOK_KILLS=50` kills each verb at so many moments, a few otherwise.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fuzz.readers import build_released, waves
from helpers.small import SMALL
from omnitok.data import write_image, write_video
from omnitok.hub.folder import load_tokenizer, save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and process groups")

MOMENTS = int(os.environ.get("OMNITOK_KILLS", "2"))


@dataclass(frozen=True)
class Command:
    """A verb on small files.

    Attributes:
        argv: of the first run; `out` in it is the folder that is looked at.
        again: what the next run adds.
        changing: names of files that differ from run to run, as they tell the time.
        replaces: whether it replaces what it has written, so that until its end files are whole, but not the last.
    """

    argv: str
    again: str = ""
    changing: tuple[str, ...] = ()
    replaces: bool = False


TRAIN = (
    "train tiny-image --out out --images {root}/in/images --max-steps 3 --device cpu --set checkpoint_every=1 "
    "--set data.workers=0 --set data.image_batch=2 --set data.resolutions=32 --set log.every=1 "
    "--set model.width=32 --set model.heads=2 --set model.head_dim=16 --set model.codebook_size=64 "
    "--set model.encoder_blocks=w --set model.decoder_blocks=w --set model.encoder_temporal_blocks=1 "
    "--set model.decoder_temporal_blocks=1"
)
COMMANDS = {
    "reconstruct": Command("reconstruct {root}/in -o out --model {root}/vq"),
    "encode": Command("encode {root}/in -o out --model {root}/vq"),
    "decode": Command("decode {root}/tokens -o out"),
    "tokenize": Command(
        "tokenize {root}/in -o out --model {root}/vq --resolution 24 --frames 5 --batch-size 2 --shard-size 2 "
        "--workers 1",
        again="--resume",
    ),
    "generate": Command("generate {root}/lm --count 2 -o out --grid --device cpu"),
    "train": Command(TRAIN, again="--resume", changing=("log.jsonl", ".metadata", "SHA256SUMS"), replaces=True),
    "evaluate": Command(
        "evaluate reconstruction --data {root}/in --model {root}/vq -o out --resolution 24 --frames 5 --batch-size 1"
    ),
    "compare": Command(
        "compare {root}/in --models {root}/vq -o out --resolution 24 --frames 5 --pictures 1 --no-references",
        changing=("index.html", "results.json"),
    ),
    "convert": Command("convert {root}/vqvae_lightning.ckpt out"),
}


class Killer:
    """The process of `fuzz.killer`."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.killer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def run(self, line: str, folder: Path, moment: int = 0, delay: float = 0.0) -> dict[str, Any]:
        """Run a command in the folder, killed at that moment; 0 lets it finish."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([line.split(), str(folder), moment, delay]) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    killer = Killer()
    yield killer
    killer.process.communicate()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, killer: Killer) -> Path:
    """`in`: two images and a video; `vq`, `lm`: models; `tokens`: what `encode` makes of `in`."""
    root = tmp_path_factory.mktemp("kills")
    for i in range(2):
        write_image(root / f"in/images/{i}.png", waves(1, 24, 32 + 8 * i)[:, 0])
    write_video(root / "in/videos/a.mp4", waves(10, 32, 48), fps=10)
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(SMALL).eval()
    tokenizer.save_pretrained(root / "vq")
    config = LanguageModelConfig(
        codebook_size=64, num_classes=2, latent_frames=2, latent_height=2, latent_width=2, width=32, depth=1, heads=2
    )
    sha256 = fingerprint(load_tokenizer(root / "vq"))
    settings = GeneratorSettings(str(root / "vq"), sha256, ("cat", "dog"), 16, 16, 5, {"guidance_scale": 1.5}, 8.0)
    save_generator(LanguageModel(config), settings, root / "lm")
    build_released(root)
    (root / "work").mkdir()
    assert killer.run(f"encode {root}/in -o {root}/tokens --model {root}/vq", root / "work")["status"] == 0
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_numbers(content: bytes) -> bytes:
    return re.sub(rb"[0-9.e-]+", b"0", content)


@pytest.mark.parametrize("verb", COMMANDS)
def test_nothing_is_half_written_and_nothing_stays(verb: str, root: Path, killer: Killer, tmp_path: Path) -> None:
    command = COMMANDS[verb]
    line = command.argv.format(root=root)
    (tmp_path / "whole").mkdir()
    whole = killer.run(line, tmp_path / "whole")
    assert whole["status"] == 0, (tmp_path / "whole/log").read_text()
    expected = contents(tmp_path / "whole/out")
    rng = random.Random(f"{verb} {MOMENTS}")
    for k in range(MOMENTS):
        moment = 1 + min(int((k + rng.random()) * whole["moments"] / MOMENTS), whole["moments"] - 1)
        delay = rng.choice((0.0, rng.random() / 50))
        where = f"{verb}, killed {delay:.3f} s after moment {moment} of {whole['moments']}"
        folder = tmp_path / str(k)
        folder.mkdir()
        killed = killer.run(line, folder, moment, delay)
        assert killed["status"] == -9 or (delay and not killed["status"]), where
        for name, content in contents(folder / "out").items() if not command.replaces else ():
            if not any(part.startswith(".") for part in Path(name).parts):
                assert name in expected, f"{where}: left {name}"
                same = without_numbers if Path(name).name in command.changing else bytes
                assert same(content) == same(expected[name]), f"{where}: {name} is half-written"
        if (folder / "out/model/config.json").exists():
            load_tokenizer(folder / "out/model")
        again = killer.run(f"{line} {command.again}", folder)
        assert again["status"] == 0, f"{where}: {(folder / 'log').read_text()}"
        found = contents(folder / "out")
        assert found.keys() == expected.keys(), where
        different = [name for name in found if found[name] != expected[name]]
        assert not [name for name in different if Path(name).name not in command.changing], where
