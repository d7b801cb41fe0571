"""An image of what tokenizers give back, from public-domain images that come with scikit-image.

    python benchmarks/reconstruction_grid.py -o docs/images/reconstructions.jpg [--models omnitok-tiny-vq ...]

The originals, then a row for each model: four photographs at 256 x 256 pixels, and the first, the ninth and the last
frame of a video of 17 frames at 128 x 128, a window that moves over one of them. PSNR of each is printed.
"""

import argparse
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from omnitok import OmniTokenizer
from omnitok.data import to_pixels, write_image
from omnitok.data.transforms import fit_square
from omnitok.metrics.psnr import psnr_per_frame

IMAGES = ("astronaut", "chelsea", "coffee", "rocket")  # NASA; CC0; CC0; SpaceX, CC0
SIZE, VIDEO_SIZE, FRAMES = 256, 128, 17


def load(name: str) -> Tensor:
    """(3, 256, 256) in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(getattr(skimage.data, name)())).permute(2, 0, 1)
    return fit_square(pixels[:, None] / 127.5 - 1, SIZE, "center_crop")[:, 0]


def moving(image: Tensor) -> Tensor:
    """(3, 17, 128, 128): a window that moves 2 pixels to the right and 1 down with every frame."""
    windows = [image[:, 40 + i : 40 + i + VIDEO_SIZE, 50 + 2 * i : 50 + 2 * i + VIDEO_SIZE] for i in range(FRAMES)]
    return torch.stack(windows, dim=1)


def row_of(title: str, images: list[Tensor], video: Tensor) -> Tensor:
    """(3, 256, width): the title upwards, images, then three frames of the video, each at twice its size."""
    strip = Image.new("RGB", (SIZE, 26), "white")
    ImageDraw.Draw(strip).text((SIZE // 2, 13), title, "black", ImageFont.load_default(15), anchor="mm")
    (upwards,) = to_pixels(strip.rotate(90, expand=True))
    frames = [video[:, i].repeat_interleave(2, 1).repeat_interleave(2, 2) for i in (0, FRAMES // 2, FRAMES - 1)]
    return torch.cat([upwards, *images, *frames], dim=2)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["omnitok-tiny-vq", "omnitok-tiny-vae"])
    arguments = parser.parse_args()
    images = [load(name) for name in IMAGES]
    video = moving(images[0])
    rows = [row_of("original", images, video)]
    for name in arguments.models:
        tokenizer = OmniTokenizer.from_pretrained(name)
        decoded = [tokenizer(image[None])[0].clamp(-1, 1) for image in images]
        decoded_video = tokenizer(video[None])[0].clamp(-1, 1)
        figures = [float(psnr_per_frame(x[None], y[None]).mean()) for x, y in zip(images, decoded, strict=True)]
        figures.append(float(psnr_per_frame(video[None], decoded_video[None]).mean()))
        print(name, ", ".join(f"{of} {dB:.2f} dB" for of, dB in zip((*IMAGES, "video"), figures, strict=True)))
        rows.append(row_of(f"{name}, {tokenizer.bits_per_token:g} bits per token", decoded, decoded_video))
    write_image(arguments.out, torch.cat(rows, dim=1))
    print(f"{arguments.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
