"""Encode + decode of an image and of a video by tokenizers of other projects, relative to ours in the same run.

Networks have the sizes of the released ones and random weights, on which speed does not depend; nothing is downloaded.
Ours is the paper's tokenizer, timed in turn with each of the others. Those of diffusers are left out without it.

    python benchmarks/peers.py [--side 256] [--frames 17] [--models VQGAN TATS] [--repeats 3] [--out FILE]
"""

import argparse
import gc
import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alternating import medians
from omnitok import OmniTokenizer
from omnitok.atomic import atomic_path
from omnitok.models.presets import preset
from omnitok.peers.cosmos import Cosmos
from omnitok.peers.libraries.diffusers import DiffusersTokenizer
from omnitok.peers.open_magvit2 import OpenMAGVIT2
from omnitok.peers.tats import TATS
from omnitok.peers.vidtok import VidTok
from omnitok.peers.vqgan import VQGAN
from omnitok.version import VERSION

_FOUR = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
_STABLE_DIFFUSION = _FOUR | {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}


def theirs(name: str, **fields: Any) -> Callable[[], Any]:
    """A class of diffusers; what is not given is its default, which is that of a release."""
    return lambda: DiffusersTokenizer({"_class_name": name, **fields})


IMAGES: dict[str, Callable[[], Any]] = {
    "VQGAN f16 16384": lambda: VQGAN({}),
    "LlamaGen ds16": lambda: VQGAN({"latent_channels": 8, "lookup": "cosine"}),
    "Open-MAGVIT2 256 L": lambda: OpenMAGVIT2({}),
    "Stable Diffusion's AutoencoderKL": theirs("AutoencoderKL", **_STABLE_DIFFUSION),
    "AutoencoderTiny": theirs("AutoencoderTiny"),
}
VIDEOS: dict[str, Callable[[], Any]] = {
    "TATS": lambda: TATS({}),
    "Cosmos CV8x8x8": lambda: Cosmos({}),
    "VidTok FSQ 488": lambda: VidTok({}),
    "AutoencoderKLWan": theirs("AutoencoderKLWan"),
    "AutoencoderKLCogVideoX": theirs("AutoencoderKLCogVideoX", latent_channels=16),
    "AutoencoderKLLTXVideo": theirs("AutoencoderKLLTXVideo"),
}


def reconstruct(tokenizer: Any, x: torch.Tensor) -> torch.Tensor:
    """Encode and decode."""
    encoding = tokenizer.encode(x)
    return tokenizer.decode(encoding.latents, encoding.size)


def row(name: str, tokenizer: Any, ours: Any, x: torch.Tensor, repeats: int) -> dict[str, object]:
    """Processor seconds of one tokenizer, and what it is."""
    took = medians({"ours": lambda: reconstruct(ours, x), name: lambda: reconstruct(tokenizer, x)}, repeats)
    size = (x.shape[2] if x.ndim == 5 else 1, *x.shape[-2:])
    bits = math.prod(tokenizer.latent_shape(*size)) * tokenizer.bits_per_token
    return {
        "model": name,
        "input": "x".join(map(str, size if x.ndim == 5 else size[1:])),
        "seconds": round(took[name], 2),
        "ratio": round(took[name] / took["ours"], 2),
        "bits_per_pixel": round(bits / math.prod(size), 4),
        "parameters": sum(weight.numel() for weight in tokenizer.parameters()),
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--models", nargs="*", default=[*IMAGES, *VIDEOS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    ours = OmniTokenizer.from_config(preset("released")).eval()
    rows = []
    for table, shape in ((IMAGES, (1, 3)), (VIDEOS, (1, 3, arguments.frames))):
        x = torch.rand((*shape, arguments.side, arguments.side)) * 2 - 1
        chosen = {name: build for name, build in table.items() if name in arguments.models}
        for name, build in ({"ours": lambda: ours} | chosen).items() if chosen else ():
            if name.split("'s ")[-1].startswith("Autoencoder") and find_spec("diffusers") is None:
                continue
            tokenizer: nn.Module = build().eval()
            rows.append(row(name, tokenizer, ours, x, arguments.repeats))
            print(json.dumps(rows[-1]), flush=True)
            del tokenizer
            gc.collect()
            if arguments.out is not None:
                result = {"version": VERSION, "torch": torch.__version__, "threads": 1, "rows": rows}
                with atomic_path(arguments.out) as temporary:
                    temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
