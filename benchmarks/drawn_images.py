"""What tokenizers give back of drawn images: letters, lines, stripes, codes, screens, plain colours.

    python benchmarks/drawn_images.py [omnitok-tiny-vae ...] [--all]

A row per tokenizer and precision: the mean PSNR of `omnitok.data.drawn.drawn_set`, that of its plain colours, the
lowest PSNR of a region of 64 x 64 pixels without and with the patterns of 1 to 4 pixels and the noise, how many images
have a region below 12 dB (without them), and the largest value of a pixel before the clamp. `--all` adds a row per
image.
"""

import argparse
from statistics import mean

import torch

from omnitok import OmniTokenizer
from omnitok.metrics.drawn import DrawnFigures, measure_drawn

TOKENIZERS = ("omnitok-tiny-vae", "omnitok-tiny-vq", "omnitok-tiny-vae-perceptual", "omnitok-tiny-vq-perceptual")
BOUND = 12.0
VISIBLE = 40.0  # dB; what bfloat16 takes from better images than these is not seen


def row(name: str, figures: list[DrawnFigures]) -> str:
    """A line of the table."""
    coarse = [f for f in figures if not f.fine]
    flat = [f.psnr for f in figures if f.name.startswith("flat")]
    return (
        f"{name:40s} {mean(f.psnr for f in figures):6.2f} {mean(f.psnr for f in coarse):6.2f} "
        f"{mean(flat):6.2f} ({min(flat):5.2f}) {min(f.worst_region for f in coarse):6.2f} "
        f"{min(f.worst_region for f in figures):6.2f} {sum(f.worst_region < BOUND for f in coarse):6d} "
        f"{max(f.largest for f in figures):7.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", nargs="*", default=TOKENIZERS)
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    print(
        f"{'':40s} {'mean':>6s} {'coarse':>6s} {'flat (lowest)':>14s} {'region':>6s} {'fine':>6s} {'below':>6s} largest"
    )
    for name in args.tokenizers:
        exact = measure_drawn(OmniTokenizer.from_pretrained(name))
        rounded = measure_drawn(OmniTokenizer.from_pretrained(name, dtype=torch.bfloat16))
        print(row(f"{name}, float32", exact))
        print(row(f"{name}, bfloat16", rounded), flush=True)
        seen = [(a, b) for a, b in zip(exact, rounded, strict=True) if b.worst_region < VISIBLE]
        lost = mean(a.psnr - b.psnr for a, b in seen)
        a, b = max(seen, key=lambda pair: pair[0].worst_region - pair[1].worst_region)
        print(
            f"    bfloat16 loses {lost:.2f} dB in the mean of images below {VISIBLE:.0f} dB, at most "
            f"{a.worst_region:.1f} to {b.worst_region:.1f} dB in a region ({a.name})"
        )
        for f in exact if args.all else []:
            mark = "fine" if f.fine else "<" if f.worst_region < BOUND else ""
            print(f"    {f.name:36s} {f.psnr:6.2f} {f.worst_region:6.2f} {f.largest:6.2f} {mark}")


if __name__ == "__main__":
    main()
