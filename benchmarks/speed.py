"""Encode + decode of a 256x256 image and a 17x256x256 video, in units of one 2048x2048x2048 float32 matrix product.

The product is timed in the same run with the same threads, so that figures of different machines can be compared. The
authors' code takes 11.1 units for the image and 60.7 for the video (float32, 2 threads, released configuration).

    python benchmarks/speed.py [--preset released] [--threads 2] [--repeats 5]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from omnitok import OmniTokenizer
from omnitok.models.presets import PRESETS, preset

AUTHORS = {"image 256x256": 11.1, "video 17x256x256": 60.7}
SHAPES = {"image 256x256": (1, 3, 256, 256), "video 17x256x256": (1, 3, 17, 256, 256)}


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Wall-clock seconds of each repeat, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="released")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = OmniTokenizer.from_config(preset(arguments.preset)).eval()
    matrix = torch.randn(2048, 2048)
    rows = []
    with torch.inference_mode():
        for name, shape in SHAPES.items():
            x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
            product = min(seconds(lambda: matrix @ matrix, 2 * arguments.repeats))
            encode = statistics.median(seconds(lambda x=x: tokenizer.encode(x), arguments.repeats))
            codes = tokenizer.encode(x)
            decode = statistics.median(seconds(lambda e=codes: tokenizer.decode(e.latents, e.size), arguments.repeats))
            units = (encode + decode) / product
            rows.append(
                {
                    "input": name,
                    "encode_units": round(encode / product, 2),
                    "decode_units": round(decode / product, 2),
                    "units": round(units, 2),
                    "ratio_to_authors": round(units / AUTHORS[name], 3) if arguments.preset == "released" else None,
                }
            )
    print(json.dumps({"preset": arguments.preset, "threads": arguments.threads, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
