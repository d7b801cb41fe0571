"""Forward and backward pass of a model on a CPU, by torch's own attention and by ours.

CPU seconds of a batch of images, the two in turn, and the ratio of their medians: of a tokenizer, whose attention bias
learns, or of a masked model (`--model omnitok-tiny-text --bfloat16`: under autocast, as recipes train where a CPU has
it).

    python benchmarks/training_step.py [--model omnitok-tiny-vae] [--batch 8] [--resolution 128] [--repeats 10]
"""

import argparse
import json
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import omnitok
from alternating import medians
from omnitok.losses.objective import reconstruction_losses
from omnitok.models import code_transformer, conditions, transformer
from omnitok.models.attention import attend
from omnitok.models.conditions import encode_texts
from omnitok.models.masked_model import MaskedModel, masked_model_losses


def torchs_own(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float | None = None, is_causal: bool = False
) -> Tensor:
    """What `attend` stands in for."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, is_causal=is_causal)


def tokenizer_loss(batch: int, resolution: int, model: str) -> Callable[[], Tensor]:
    """Of images in which there is nothing to see."""
    tokenizer = omnitok.OmniTokenizer.from_pretrained(model).train()
    pixels = torch.rand(batch, 3, resolution, resolution) * 2 - 1
    return lambda: reconstruction_losses(tokenizer.autoencode(pixels).reconstruction, pixels)["log_l2"]


def masked_loss(batch: int, model: MaskedModel) -> Callable[[], Tensor]:
    """Of codes drawn at random, half of which are hidden."""
    grid = (batch, 1, model.config.latent_height, model.config.latent_width)
    codes, hidden = torch.randint(model.config.codebook_size, grid), torch.rand(grid) < 0.5
    texts = encode_texts(["a pair of red shoes in front of a light background"] * batch, 96)
    return lambda: masked_model_losses(model, codes, hidden, texts)["cross_entropy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="omnitok-tiny-vae")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=128, help="of a tokenizer's images")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.model == "omnitok-tiny-text":
        model = omnitok.load_generator(arguments.model).model.train().requires_grad_()
        assert isinstance(model, MaskedModel)
        loss = masked_loss(arguments.batch, model)
    else:
        loss = tokenizer_loss(arguments.batch, arguments.resolution, arguments.model)

    def both_passes(way: Callable[..., Tensor]) -> None:
        for module in (transformer, code_transformer, conditions):
            module.attend = way
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
            loss().backward()

    seconds = medians(
        {"torch": partial(both_passes, torchs_own), "omnitok": partial(both_passes, attend)}, arguments.repeats
    )
    ratio = seconds["omnitok"] / seconds["torch"]
    print(json.dumps({**{name: round(value, 3) for name, value in seconds.items()}, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
