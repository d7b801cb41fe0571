"""`omnitok tokenize --inspect`: what token shards hold, as figures and as a picture."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from omnitok.cli.loading import load_named, resolve_device
from omnitok.cli.report import Row
from omnitok.data import TokenShards, write_image
from omnitok.data.transforms import resize
from omnitok.metrics.codebook import CodebookAccumulator
from omnitok.models.tokenizer import OmniTokenizer

SAMPLES, COLUMNS, LARGEST_CELL, GAP = 16, 4, 256, 4


def inspect_shards(
    folders: Sequence[Path], picture: Path | None, model: str | None, device: str, as_json: bool, dtype: str = "float32"
) -> int:
    """Verify the shards, count their tokens, decode a sample into a picture, and print it all; the exit code.

    Raises:
        ShardError: damaged shards, or shards of another tokenizer than `model`.
        CheckpointError: the tokenizer that the shards name cannot be loaded.
    """
    loaded = load_named(model or TokenShards(folders[0]).tokenizer, resolve_device(device), dtype)
    compatible = loaded.tokenizer.compatible_tokenizers
    shards = TokenShards.of_tokenizer(folders, loaded.name, loaded.sha256, compatible, verify=True)
    picture = picture or Path(f"{folders[0].resolve().name}-sample.png")
    row: Row = {
        "items": len(shards),
        "skipped": shards.skipped,
        "shards": shards.shard_count,
        "tokens": sum(count * math.prod(grid) for grid, count in shards.grids.items()),
        "kind": shards.kind,
        "grids": [{"grid": list(grid), "items": count} for grid, count in shards.grids.items()],
        "classes": _items_of_classes(shards),
        "model": shards.tokenizer,
        "model_sha256": shards.tokenizer_sha256,
        **(_code_statistics(shards) if shards.kind == "codes" else _latent_statistics(shards)),
    }
    if len(shards):
        write_image(picture, _sample_grid(shards, loaded.tokenizer))
        row["output"] = str(picture)
    if as_json:
        print(json.dumps(row, indent=2))
    else:
        _print(row)
    return 0


def _items_of_classes(shards: TokenShards) -> dict[str, int]:
    labels = torch.from_numpy(shards.labels)
    counts = torch.bincount(labels[labels >= 0], minlength=len(shards.classes)).tolist()
    names = shards.classes or tuple(map(str, range(len(counts))))
    return dict(zip(names, counts, strict=True))


def _code_statistics(shards: TokenShards) -> Row:
    accumulator = CodebookAccumulator(shards.size)
    for block in shards.blocks():
        accumulator.update(block)
    if not len(shards):
        return {"codebook_size": shards.size, "usage": 0.0, "perplexity": None, "histogram": [0] * shards.size}
    statistics = accumulator.compute()
    return {
        "codebook_size": shards.size,
        "usage": round(statistics.usage, 6),
        "perplexity": round(statistics.perplexity, 3),
        "entropy": round(statistics.entropy, 4),
        "histogram": accumulator.counts.tolist(),
    }


def _latent_statistics(shards: TokenShards) -> Row:
    count, total, squares = 0, torch.zeros(shards.size, dtype=torch.float64), torch.zeros(shards.size).double()
    for block in shards.blocks():
        flat = block.double().transpose(0, 1).flatten(1)  # (c, n)
        count, total, squares = count + flat.shape[1], total + flat.sum(1), squares + flat.square().sum(1)
    mean = total / max(count, 1)
    std = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
    return {
        "latent_channels": shards.size,
        "latent_mean": [round(value, 6) for value in mean.tolist()],
        "latent_std": [round(value, 6) for value in std.tolist()],
    }


@torch.inference_mode()
def _sample_grid(shards: TokenShards, tokenizer: OmniTokenizer) -> Tensor:
    """Items at even distances, decoded; of a clip the middle frame: (3, H, W) in [-1, 1]."""
    count = min(SAMPLES, len(shards))
    cells = []
    for k in range(count):
        item = shards[k * len(shards) // count]
        if item.codes is not None:
            pixels = tokenizer.decode_codes(item.codes[None], item.size)
        else:
            assert item.latents is not None
            pixels = tokenizer.decode(item.latents[None], item.size)
        frame = pixels[0] if pixels.ndim == 4 else pixels[0, :, pixels.shape[2] // 2]
        frame = frame.float().clamp(-1, 1).cpu()
        scale = min(1.0, LARGEST_CELL / max(frame.shape[1:]))
        height, width = (max(1, round(side * scale)) for side in frame.shape[1:])
        cells.append(resize(frame[:, None], height, width)[:, 0])
    height, width = max(cell.shape[1] for cell in cells) + GAP, max(cell.shape[2] for cell in cells) + GAP
    rows = -(-count // COLUMNS)
    grid = torch.ones(3, rows * height - GAP, min(count, COLUMNS) * width - GAP)
    for k, cell in enumerate(cells):
        top, left = k // COLUMNS * height, k % COLUMNS * width
        grid[:, top : top + cell.shape[1], left : left + cell.shape[2]] = cell
    return grid


def _print(row: Row) -> None:
    print(
        f"{row['items']} items, {row['tokens']} positions of {row['kind']} in {row['shards']} shards, all files intact"
    )
    print(f"made by {row['model']} ({row['model_sha256'][:12]}); {row['skipped']} files had been skipped")
    for grid in row["grids"]:
        print(f"  grid {'x'.join(map(str, grid['grid']))}: {grid['items']} items")
    for name, count in row["classes"].items():
        print(f"  class {name}: {count} items")
    if row["kind"] == "codes":
        _print_histogram(row)
    else:
        for channel, (mean, std) in enumerate(zip(row["latent_mean"], row["latent_std"], strict=True)):
            print(f"  channel {channel}: mean {mean:.4f}, standard deviation {std:.4f}")
    if "output" in row:
        print(f"a decoded sample is in {row['output']}")


def _print_histogram(row: Row) -> None:
    """Usage, and how often codes are chosen: the codes sorted by frequency in eight equal groups."""
    perplexity = "-" if row["perplexity"] is None else f"{row['perplexity']:.1f}"
    print(f"{row['usage']:.1%} of {row['codebook_size']} codes are in use, perplexity {perplexity}")
    counts = sorted(row["histogram"], reverse=True)
    groups = min(8, len(counts))
    total = max(sum(counts), 1)
    for k in range(groups):
        first, last = k * len(counts) // groups, (k + 1) * len(counts) // groups
        share = sum(counts[first:last]) / total
        print(f"  codes {first + 1:>5} to {last:>5} by frequency: {share:6.1%} {'#' * round(40 * share)}")
