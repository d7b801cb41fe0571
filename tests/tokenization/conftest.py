"""A tiny tokenizer and a collection of pictures and clips in class folders, with one bad file of each."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.small import SMALL
from omnitok.data import write_image, write_video
from omnitok.data.index import build_index
from omnitok.hub.folder import save_tokenizer
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.tokenization.job import Plan, make_plan
from omnitok.tokenization.settings import TokenizeSettings


def make_tokenizer(config: TokenizerConfig = SMALL) -> OmniTokenizer:
    torch.manual_seed(0)
    return OmniTokenizer.from_config(config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> OmniTokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def vae() -> OmniTokenizer:
    return make_tokenizer(replace(SMALL, bottleneck="kl"))


@pytest.fixture(scope="session")
def model_folder(tokenizer: OmniTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tokenizer, tmp_path_factory.mktemp("models") / "vq")


def smooth(seed: int, frames: int, height: int, width: int) -> torch.Tensor:
    """(3, frames, height, width) in [-1, 1]."""
    small = torch.rand(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(small, (frames, height, width), mode="trilinear")[0]


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures in a/ and b/, three clips of 6, 10 and 14 frames in c/, bad files in b/ and c/; two captioned."""
    root = tmp_path_factory.mktemp("media")
    for i in range(10):
        write_image(root / f"{'ab'[i % 2]}/{i}.png", smooth(i, 1, 24 + 8 * (i % 3), 32)[:, 0])
    for i in range(3):
        write_video(root / f"c/{i}.mp4", smooth(50 + i, 6 + 4 * i, 32, 48), fps=10)
    (root / "a/0.txt").write_text("an a\nanother a\n")
    (root / "c/2.txt").write_text("a video")
    (root / "b/bad.jpg").write_bytes(b"no picture")
    (root / "c/bad.mp4").write_bytes(b"no clip")
    return root


def plan_of(
    media: Path, tokenizer: OmniTokenizer, latent_dtype: str = "float16", captions: bool = False, **changes: object
) -> Plan:
    settings = replace(TokenizeSettings(resolution=24, frames=5, batch_size=2, shard_size=4), **changes)
    collection = build_index([media], labels="auto", captions=captions)
    return make_plan(collection, settings, tokenizer, "small", fingerprint(tokenizer), latent_dtype)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
