"""Forward and backward pass of a tokenizer on a CPU, with a learnt attention bias by torch's own attention and by ours.

CPU seconds of a batch of images, the two in turn, and the ratio of their medians.

    python benchmarks/training_step.py [--model omnitok-tiny-vae] [--batch 8] [--resolution 128] [--repeats 10]
"""

import argparse
import json
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from alternating import medians
from omnitok import OmniTokenizer
from omnitok.losses.objective import reconstruction_losses
from omnitok.models import transformer


def torchs_own(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float) -> torch.Tensor:
    """What `attend` stands in for."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="omnitok-tiny-vae")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_pretrained(arguments.model).train()
    pixels = torch.rand(arguments.batch, 3, arguments.resolution, arguments.resolution) * 2 - 1

    def both_passes(attend: Callable[..., torch.Tensor]) -> None:
        transformer.attend = attend
        tokenizer.zero_grad()
        reconstruction_losses(tokenizer.autoencode(pixels).reconstruction, pixels)["log_l2"].backward()

    ways = {"torch": torchs_own, "omnitok": transformer.attend}
    seconds = medians({name: partial(both_passes, way) for name, way in ways.items()}, arguments.repeats)
    ratio = seconds["omnitok"] / seconds["torch"]
    print(json.dumps({**{name: round(value, 3) for name, value in seconds.items()}, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
