"""Tokenizing in bulk: share of the encoder's own speed, memory over the size of a collection, and random reads.

    python benchmarks/token_shards.py throughput [--images 256] [--resolution 128] [--repeats 3]
    python benchmarks/token_shards.py memory [--counts 1000 4000]
    python benchmarks/token_shards.py reads [--items 100000] [--reads 50000]

Each prints one JSON object. `throughput` alternates between the encoder alone, on tensors in memory, and the whole of
reading, encoding and writing as many images with one reading process: `share` compares them by the clock (give the
two processes a core each), `cpu_share` by the CPU time of the process that encodes, which other work on the machine
does not touch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from omnitok import OmniTokenizer
from omnitok.data import TokenShards, write_image
from omnitok.data.index import build_index
from omnitok.data.shard_format import TokenFormat, TokenRecord
from omnitok.data.shard_writing import Token, read_shard, write_index, write_shard
from omnitok.models.protocol import fingerprint
from omnitok.tokenization.coding import encode
from omnitok.tokenization.job import Plan, TokenizeJob, make_plan
from omnitok.tokenization.pipeline import tokenize_here
from omnitok.tokenization.settings import TokenizeSettings

MODEL = "omnitok-tiny-vq"


def make_images(folder: Path, count: int, side: int, different: int = 16) -> None:
    """So many JPEG files of smooth colours; only `different` of them differ, the others are links."""
    folder.mkdir()
    for i in range(min(count, different)):
        small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) * 2 - 1
        pixels = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(-1, 1)
        write_image(folder / f"{i:06d}.jpg", pixels[0])
    for i in range(different, count):
        os.link(folder / f"{i % different:06d}.jpg", folder / f"{i:06d}.jpg")


def plan_of(folder: Path, tokenizer: OmniTokenizer, resolution: int) -> Plan:
    settings = TokenizeSettings(resolution=resolution, shard_size=128)
    return make_plan(build_index([folder], labels="auto"), settings, tokenizer, MODEL, fingerprint(tokenizer))


def throughput(images: int, resolution: int, repeats: int) -> dict[str, object]:
    """Images a second, alone and as a whole."""
    tokenizer = OmniTokenizer.from_pretrained(MODEL)
    with tempfile.TemporaryDirectory() as temporary:
        make_images(Path(temporary) / "in", images, resolution)
        plan = plan_of(Path(temporary) / "in", tokenizer, resolution)
        batch = plan.settings.batch_size
        pixels = torch.rand(batch, 3, resolution, resolution) * 2 - 1
        encode(tokenizer, pixels)
        images = images // batch * batch
        alone, whole, cpu, stages = [], [], [], []
        for repeat in range(repeats):
            start, start_cpu = time.perf_counter(), time.process_time()
            for _ in range(images // batch):
                encode(tokenizer, pixels)
            alone.append(images / (time.perf_counter() - start))
            alone_cpu = time.process_time() - start_cpu
            work = TokenizeJob(plan, Path(temporary) / f"out{repeat}")
            start, start_cpu = time.perf_counter(), time.process_time()
            tokenize_here(work, tokenizer, workers=1)
            work.finish()
            whole.append(images / (time.perf_counter() - start))
            cpu.append(alone_cpu / (time.process_time() - start_cpu))
            stages.append(work.summary.limiting_stage)
    return {
        "resolution": resolution,
        "encoder_alone": round(statistics.median(alone), 2),
        "tokenize": round(statistics.median(whole), 2),
        "share": round(statistics.median(w / a for w, a in zip(whole, alone, strict=True)), 4),
        "cpu_share": round(statistics.median(cpu), 4),
        "limiting_stage": stages,
    }


def peak_of(count: int) -> dict[str, object]:
    """Peak memory of tokenizing `count` small images in this process and one that reads."""
    import resource

    tokenizer = OmniTokenizer.from_pretrained(MODEL)
    with tempfile.TemporaryDirectory() as temporary:
        make_images(Path(temporary) / "in", count, 32)
        work = TokenizeJob(plan_of(Path(temporary) / "in", tokenizer, 32), Path(temporary) / "out")
        tokenize_here(work, tokenizer, workers=1)
        work.finish()
    own, reader = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"items": work.summary.items, "encoder_mb": round(own / 1024, 1), "reader_mb": round(reader / 1024, 1)}


def memory(counts: list[int]) -> dict[str, object]:
    """`peak_of` each count, in processes of their own."""
    rows = []
    for count in counts:
        line = [sys.executable, __file__, "peak", "--count", str(count)]
        rows.append(json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout))
    return {"rows": rows}


def reads(items: int, count: int, repeats: int = 5) -> dict[str, object]:
    """CPU time of random reads of codes (16, 16): through `TokenShards`, and from one memory map of numpy's."""
    codes = np.random.default_rng(0).integers(0, 8192, (items, 16, 16), dtype=np.uint16)
    order = np.random.default_rng(1).integers(0, items, count).tolist()
    format = TokenFormat("codes", "uint16", 8192, MODEL, "0" * 64)
    record = TokenRecord("key.jpg", 0, (1, 128, 128), (128, 128), None, 0, 0, (0, 0, 128, 128), False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts = np.array_split(codes, max(1, items // 1000))
        for number, part in enumerate(parts):
            write_shard(folder, number, format, (Token(record, values) for values in part), [])
        write_index(folder, format, [entry for k in range(len(parts)) if (entry := read_shard(folder, k))])
        np.save(folder / "raw.npy", codes)
        raw = np.load(folder / "raw.npy", mmap_mode="r")
        shards = TokenShards(folder)
        assert all(np.array_equal(shards[i].codes, raw[i]) for i in order[:100])

        def fastest(read: Callable[[int], object]) -> float:
            times = []
            for _ in range(repeats):
                start = time.process_time()  # all in the page cache: what others do to the machine does not count
                for i in order:
                    read(i)
                times.append(time.process_time() - start)
            return min(times)

        copies = fastest(lambda i: np.array(raw[i]))
        tensors = fastest(lambda i: torch.from_numpy(raw[i].astype(np.int64)))
        ours = fastest(lambda i: shards[i])
    return {
        "items": items,
        "reads": count,
        "memmap_copy_us": round(copies / count * 1e6, 2),
        "memmap_int64_tensor_us": round(tensors / count * 1e6, 2),
        "token_shards_us": round(ours / count * 1e6, 2),
        "ratio_to_copy": round(ours / copies, 3),
        "ratio_to_int64_tensor": round(ours / tensors, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "memory", "reads", "peak"])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--reads", type=int, default=50_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work: dict[str, Callable[[], dict[str, object]]] = {
        "throughput": lambda: throughput(arguments.images, arguments.resolution, arguments.repeats),
        "memory": lambda: memory(arguments.counts),
        "reads": lambda: reads(arguments.items, arguments.reads),
        "peak": lambda: peak_of(arguments.count),
    }
    print(json.dumps(work[arguments.what](), indent=2))


if __name__ == "__main__":
    main()
