"""What `omnitok tokenize` tells of shards: after they are made, and with `--inspect` as figures and as an image."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from omnitok.cli.loading import load_named
from omnitok.cli.options import resolve_device
from omnitok.cli.report import Row, print_json, renamed, say
from omnitok.data import TokenShards, write_image
from omnitok.data.pixel_format import as_color
from omnitok.data.transforms import resize
from omnitok.errors import describe
from omnitok.metrics.codebook import CodebookAccumulator
from omnitok.models.protocol import Tokenizer
from omnitok.tokenization.job import Plan, Summary

SAMPLES, COLUMNS, LARGEST_CELL, GAP = 16, 4, 256, 4
SHOWN_CLASSES = 10
SHOWN_ERRORS = 5
SHOWN_CAPTIONS = 5


def print_summary(plan: Plan, summary: Summary, output: Path, seconds: float, as_json: bool) -> None:
    """What one command has made, and on stderr what it could not read."""
    for error in summary.errors[:SHOWN_ERRORS]:
        say(f"error: {error.reason}")
    if summary.skipped > SHOWN_ERRORS:
        say(f"error: {summary.skipped - SHOWN_ERRORS} more files could not be read")
    if not summary.items:
        say("error: there is not a single item in the shards")
    format = plan.format
    names = ("items", "images", "videos", "skipped", "shards", "tokens", "complete", "limiting_stage")
    row: Row = {
        "output": str(output),
        **{name: getattr(summary, name) for name in names},
        "seconds": round(seconds, 3),
        "kind": format.kind,
        "classes": len(format.classes),
        "class_names": list(format.classes),
        **({"captioned": summary.captioned} if plan.collection.captions else {}),
        **({"embedded": summary.embedded} if format.embeddings else {}),
        "resumed_shards": summary.resumed,
        "items_per_second": round(summary.encoded / seconds, 3),
        "frames_per_second": round(summary.frames / seconds, 3),
        "encoder_share": round(summary.encoder_share, 4),
        "model": format.tokenizer,
        "model_sha256": format.tokenizer_sha256,
    }
    if as_json:
        print_json(row)
        return
    what = f"{row['images']} of images and {row['videos']} of videos; {row['tokens']} positions of {row['kind']}"
    place = renamed(str(output))
    print(f"{row['items']} items ({what}) in {row['shards']} shards: {place}; {row['skipped']} files skipped")
    shown = ", ".join(map(describe, format.classes[:SHOWN_CLASSES]))
    more = ", ..." if len(format.classes) > SHOWN_CLASSES else ""
    print(f"{len(format.classes)} classes: {shown}{more}" if format.classes else "no named classes")
    if plan.collection.captions:
        print(f"{summary.captioned} items have captions")
    if format.embeddings:
        print(f"{summary.embedded} items have embeddings of {format.embeddings.source}")
    if row["limiting_stage"] is not None:
        rates = f"{row['items_per_second']:.1f} items/s, {row['frames_per_second']:.1f} frames/s"
        print(f"{rates} in {row['seconds']:.1f} s; {row['limiting_stage']} is the limit")
    if not row["complete"]:
        print("other parts are still missing; the last one to finish writes the index")


def inspect_shards(folders: Sequence[Path], image: Path | None, model: str | None, device: str, as_json: bool) -> int:
    """Verify the shards, count their tokens, decode a sample into an image, and print it all; the exit code.

    Raises:
        ShardError: damaged shards, or shards of another tokenizer than `model`.
        CheckpointError: the tokenizer that the shards name cannot be loaded.
    """
    loaded = load_named(model or TokenShards(folders[0]).tokenizer, resolve_device(device), "float32")
    same = (loaded.sha256, *loaded.tokenizer.compatible_tokenizers)
    shards = TokenShards(folders, verify=True, same_tokens=same)
    shards.check_tokenizer(loaded.name, loaded.sha256)
    labels = torch.from_numpy(shards.labels)
    counts = torch.bincount(labels[labels >= 0], minlength=len(shards.classes)).tolist()
    row: Row = {
        "items": len(shards),
        "skipped": shards.skipped,
        "shards": shards.shard_count,
        "tokens": sum(count * math.prod(grid) for grid, count in shards.grids.items()),
        "kind": shards.kind,
        "grids": [{"grid": list(grid), "items": count} for grid, count in shards.grids.items()],
        "classes": dict(zip(shards.classes or map(str, range(len(counts))), counts, strict=True)),
        "model": shards.tokenizer,
        "model_sha256": shards.tokenizer_sha256,
        **(_code_statistics(shards) if shards.kind == "codes" else _latent_statistics(shards)),
    }
    if shards.captioned:
        row |= {"captioned": shards.captioned, "captions": _some_captions(shards)}
    if shards.embedding_format:
        row["embeddings"] = {**shards.embedding_format.model_dump(), "items": shards.embedded}
    if len(shards):
        image = image or Path(f"{folders[0].resolve().name}-sample.png")
        write_image(image, _sample_grid(shards, loaded.tokenizer))
        row["output"] = str(image)
    if as_json:
        print_json(row)
    else:
        _print(row)
    return 0


def _some_captions(shards: TokenShards) -> dict[str, tuple[str, ...]]:
    """The captions of the first files that have some, by their keys."""
    found: dict[str, tuple[str, ...]] = {}
    for item in range(len(shards)):
        if captions := shards.captions(item):
            found[shards.record(item).key] = captions
        if len(found) == SHOWN_CAPTIONS:
            break
    return found


def _code_statistics(shards: TokenShards) -> Row:
    accumulator = CodebookAccumulator(shards.size)
    for block in shards.blocks():
        accumulator.update(block)
    row: Row = {
        "codebook_size": shards.size,
        "usage": 0.0,
        "perplexity": None,
        "histogram": accumulator.counts.tolist(),
    }
    if len(shards):
        statistics = accumulator.compute()
        row |= {name: round(getattr(statistics, name), 6) for name in ("usage", "perplexity", "entropy")}
    return row


def _latent_statistics(shards: TokenShards) -> Row:
    count, total, squares = 0, torch.zeros(shards.size, dtype=torch.float64), torch.zeros(shards.size).double()
    for block in shards.blocks():
        flat = block.double().transpose(0, 1).flatten(1)  # (c, n)
        count, total, squares = count + flat.shape[1], total + flat.sum(1), squares + flat.square().sum(1)
    mean = total / max(count, 1)
    std = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
    rounded = {name: [round(value, 6) for value in x.tolist()] for name, x in (("mean", mean), ("std", std))}
    return {"latent_channels": shards.size, "latent_mean": rounded["mean"], "latent_std": rounded["std"]}


@torch.inference_mode()
def _sample_grid(shards: TokenShards, tokenizer: Tokenizer) -> Tensor:
    """Items at even distances, decoded; of a video the middle frame: (3, H, W) in [-1, 1], see `as_color`."""
    count = min(SAMPLES, len(shards))
    cells = []
    for item in (shards[k * len(shards) // count] for k in range(count)):
        if item.codes is not None:
            pixels = tokenizer.decode_codes(item.codes[None], item.size)
        else:
            assert item.latents is not None
            pixels = tokenizer.decode(item.latents[None], item.size)
        frame = as_color(pixels[0] if pixels.ndim == 4 else pixels[0, :, pixels.shape[2] // 2])
        scale = min(1.0, LARGEST_CELL / max(frame.shape[1:]))
        height, width = (max(1, round(side * scale)) for side in frame.shape[1:])
        cells.append(resize(frame.float().clamp(-1, 1).cpu()[:, None], height, width)[:, 0])
    height, width = (max(cell.shape[axis] for cell in cells) + GAP for axis in (1, 2))
    grid = torch.ones(3, -(-count // COLUMNS) * height - GAP, min(count, COLUMNS) * width - GAP)
    for k, cell in enumerate(cells):
        top, left = k // COLUMNS * height, k % COLUMNS * width
        grid[:, top : top + cell.shape[1], left : left + cell.shape[2]] = cell
    return grid


def _print(row: Row) -> None:
    items = f"{row['items']} items, {row['tokens']} positions of {row['kind']} in {row['shards']} shards"
    print(f"{items}, all files intact")
    print(f"made by {row['model']} ({row['model_sha256'][:12]}); {row['skipped']} files had been skipped")
    for grid in row["grids"]:
        print(f"  grid {'x'.join(map(str, grid['grid']))}: {grid['items']} items")
    for name, count in row["classes"].items():
        print(f"  class {describe(name)}: {count} items")
    if "captions" in row:
        print(f"{row['captioned']} items have captions, such as")
        for key, captions in row["captions"].items():
            print(f"  {describe(key)}: {' | '.join(map(describe, captions))}")
    if "embeddings" in row:
        found = row["embeddings"]
        print(f"{found['items']} items have embeddings of {found['source']}, of width {found['width']}")
    if row["kind"] == "codes":
        _print_histogram(row)
    else:
        for channel, (mean, std) in enumerate(zip(row["latent_mean"], row["latent_std"], strict=True)):
            print(f"  channel {channel}: mean {mean:.4f}, standard deviation {std:.4f}")
    if "output" in row:
        print(f"a decoded sample is in {renamed(row['output'])}")


def _print_histogram(row: Row) -> None:
    """Usage, and how often codes are chosen: the codes sorted by frequency in eight equal groups."""
    perplexity = "-" if row["perplexity"] is None else f"{row['perplexity']:.1f}"
    print(f"{row['usage']:.1%} of {row['codebook_size']} codes are in use, perplexity {perplexity}")
    counts = sorted(row["histogram"], reverse=True)
    groups, total = min(8, len(counts)), max(sum(counts), 1)
    for k in range(groups):
        first, last = k * len(counts) // groups, (k + 1) * len(counts) // groups
        share = sum(counts[first:last]) / total
        print(f"  codes {first + 1:>5} to {last:>5} by frequency: {share:6.1%} {'#' * round(40 * share)}")
