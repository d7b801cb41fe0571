"""A diffusion transformer's training step and sampling against a plain implementation with the same weights.

The plain one is written as the published code is: attention as softmax(q kᵀ) v, modulation as separate products and
sums, the condition repeated for every frame and position and modulated there, guidance as two passes. Both must agree
before they are timed. Rounds alternate between them in one run; medians of processor seconds on one thread are compared
(another process on the machine changes them little). Last, a training step on latents that are at hand against one
that encodes its pixels on the fly.

    python benchmarks/diffusion.py [--repeats 3]
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alternating import medians
from omnitok import DiffusionTransformer, DiffusionTransformerConfig, OmniTokenizer
from omnitok.diffusion import ddim, diffusion_losses, guided, linear_schedule, respace
from omnitok.models.diffusion_transformer import DiffusionBlock, time_features
from omnitok.models.positions import sincos_1d, sincos_2d
from omnitok.models.presets import preset

CONFIG = DiffusionTransformerConfig(width=256, depth=8, heads=4, num_classes=10, temporal=True)
LATENTS = (4, 8, 5, 16, 16)  # videos of 17 x 128 x 128 pixels
SAMPLES, STEPS = 2, 10


def plain_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def plain_block(block: DiffusionBlock, x: Tensor, condition: Tensor) -> Tensor:
    """x (b, n, d), condition (b, d) before its SiLU, one row for each sequence."""
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = block.modulation(F.silu(condition)).chunk(6, dim=1)
    b, n, d = x.shape
    heads = block.attention.heads
    qkv = block.attention.qkv(plain_modulate(block.norm(x), shift_a, scale_a))
    q, k, v = qkv.reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    weights = (q * (d // heads) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    y = block.attention.proj((weights @ v).transpose(1, 2).reshape(b, n, d))
    x = x + gate_a.unsqueeze(1) * y
    y = block.expand(plain_modulate(block.norm(x), shift_m, scale_m))
    return x + gate_m.unsqueeze(1) * block.project(F.gelu(y, approximate="tanh"))


def plain_forward(model: DiffusionTransformer, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    b, c, frames, height, width = x.shape
    p, d = model.config.patch_size, model.config.width
    h, w = height // p, width // p
    images = x.transpose(1, 2).reshape(b * frames, c, height, width)
    tokens = F.conv2d(images, model.embed.weight.reshape(d, c, p, p), model.embed.bias, stride=p).flatten(2)
    tokens = tokens.transpose(1, 2) + sincos_2d(h, w, d, x.device)  # (b t) n d
    condition = model.embed_time(time_features(t)) + model.embed_label(labels)
    for_frames = condition.repeat_interleave(frames, dim=0)
    for_positions = condition.repeat_interleave(h * w, dim=0)
    for index in range(0, model.config.depth, 2):
        tokens = plain_block(model.blocks[index], tokens, for_frames)
        tokens = tokens.reshape(b, frames, h * w, d).transpose(1, 2).reshape(b * h * w, frames, d)
        if index == 0:
            tokens = tokens + sincos_1d(frames, d, x.device)
        tokens = plain_block(model.blocks[index + 1], tokens, for_positions)
        tokens = tokens.reshape(b, h * w, frames, d).transpose(1, 2).reshape(b * frames, h * w, d)
    shift, scale = model.modulation(F.silu(for_frames)).chunk(2, dim=1)
    out = model.head(plain_modulate(model.norm(tokens), shift, scale))
    out = out.reshape(b, frames, h, w, p, p, -1).permute(0, 6, 1, 2, 4, 3, 5)
    return out.reshape(b, -1, frames, height, width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DiffusionTransformer(CONFIG)
    for parameter in model.parameters():  # a fresh model answers zero
        nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    latents, noise = torch.randn(LATENTS), torch.randn(LATENTS)
    labels, t = torch.arange(LATENTS[0]), torch.tensor([5, 300, 700, 990])
    schedule = linear_schedule()

    def ours(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return model(x, t, y)

    def plain(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return plain_forward(model, x, t, y)

    with torch.no_grad():
        difference = float((ours(latents, t.float(), labels) - plain(latents, t.float(), labels)).abs().max())
    assert difference < 1e-4, difference

    def train(network: Callable[..., Tensor], x: Tensor) -> None:
        losses = diffusion_losses(network, x, labels, t, noise, schedule=schedule)
        optimizer.zero_grad()
        sum(loss.mean() for loss in losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()

    few = respace(schedule, STEPS, "trailing")
    start, classes = noise[:SAMPLES], labels[:SAMPLES]

    @torch.inference_mode()
    def sample_plain() -> None:
        def denoise(x: Tensor, time: Tensor) -> Tensor:
            conditional, unconditional = (plain(x, time, y) for y in (classes, torch.full_like(classes, 10)))
            return unconditional + 2.0 * (conditional - unconditional)

        ddim(denoise, start, few)

    @torch.inference_mode()
    def sample_ours(interval: tuple[float, float] | None = None) -> None:
        ddim(guided(ours, classes, 10, 2.0, interval=interval), start, few)

    def row(work: str, **figures: float) -> None:
        print(json.dumps({"work": work, **{name: round(value, 3) for name, value in figures.items()}}), flush=True)

    videos = LATENTS[0]
    step = medians({"plain": lambda: train(plain, latents), "ours": lambda: train(ours, latents)}, arguments.repeats)
    row("training step", videos_per_second_plain=videos / step["plain"], videos_per_second=videos / step["ours"],
        speedup=step["plain"] / step["ours"])  # fmt: skip
    sampling = medians(
        {"plain": sample_plain, "ours": sample_ours, "interval": lambda: sample_ours((0, 500))}, arguments.repeats
    )
    row("sampling, 10 steps, guided", videos_per_second_plain=SAMPLES / sampling["plain"],
        videos_per_second=SAMPLES / sampling["ours"], speedup=sampling["plain"] / sampling["ours"])  # fmt: skip
    row("the same, guided in half the steps", videos_per_second=SAMPLES / sampling["interval"],
        speedup=sampling["plain"] / sampling["interval"])  # fmt: skip

    tokenizer = OmniTokenizer.from_config(replace(preset("tiny"), bottleneck="kl")).eval()
    pixels = torch.rand(videos, 3, 17, 128, 128) * 2 - 1

    def on_the_fly() -> None:
        with torch.no_grad():
            posterior = tokenizer.encode(pixels).posterior
        assert posterior is not None
        train(ours, posterior.sample())

    cached = medians({"cached": lambda: train(ours, latents), "on the fly": on_the_fly}, arguments.repeats)
    row("training step, latents cached or encoded on the fly", videos_per_second=videos / cached["cached"],
        videos_per_second_on_the_fly=videos / cached["on the fly"],
        speedup=cached["on the fly"] / cached["cached"])  # fmt: skip


if __name__ == "__main__":
    main()
