"""`omnitok demo`: reconstruct real images and moving videos, side by side with their originals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from omnitok.cli.options import MediaInputs, ModelOptions
from omnitok.cli.reconstruct import Reconstruct
from omnitok.errors import MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

FRAMES, RATE, SIDE = 49, 16.0, 256  # of the videos: three seconds


@dataclass(frozen=True, kw_only=True)
class Demo(ModelOptions):
    """Reconstruct scikit-image's images and videos made from them, or your own files.

    Prints a table and writes each result beside its original (original left, reconstruction right).
    """

    inputs: MediaInputs = ()
    """Your own images, videos or folders; without any, the demo's."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT")] = Path("demo-output")
    """Folder for the side-by-side images and videos."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        self.check_common()
        inputs = self.inputs or (write_demo_media(self.out / "originals", self.seed),)
        return Reconstruct(
            device=self.device,
            seed=self.seed,
            json=self.json,
            model=self.model,
            dtype=self.dtype,
            tile=self.tile,
            ranges=self.ranges,
            inputs=inputs,
            out=self.out / "side-by-side",
            side_by_side=True,
        ).run()


def write_demo_media(folder: Path, seed: int) -> Path:
    """Write the demo's images and videos into `folder` and give it back.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    try:
        import skimage.data
    except ImportError as error:
        raise MissingExtraError.of("scikit-image") from error
    import torch

    from omnitok.data import write_image, write_video
    from omnitok.data.ken_burns import ken_burns

    bundled = {  # these come inside scikit-image; others would be downloaded
        "astronaut": skimage.data.astronaut,
        "chelsea": skimage.data.chelsea,
        "coffee": skimage.data.coffee,
        "rocket": skimage.data.rocket,
        "hubble_deep_field": skimage.data.hubble_deep_field,
    }
    images = {name: torch.from_numpy(read()).permute(2, 0, 1) / 127.5 - 1 for name, read in bundled.items()}
    for name, image in images.items():
        write_image(folder / f"{name}.png", image)
    for name in ("astronaut", "coffee"):
        write_video(folder / f"camera_over_{name}.mp4", ken_burns(images[name], FRAMES, SIDE, False, seed), RATE)
    write_video(folder / "rendered_balls.mp4", render_balls(seed), RATE)
    return folder


def render_balls(seed: int) -> Tensor:
    """A video (3, FRAMES, SIDE, SIDE) of shaded balls that bounce over a chequered floor."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(5, 3, generator=generator) * 0.8 + 0.2
    radii = 14 + 22 * torch.rand(5, generator=generator)
    places = radii[:, None] + torch.rand(5, 2, generator=generator) * (SIDE - 2 * radii[:, None])  # y, x
    speeds = 8 * torch.rand(5, 2, generator=generator) - 4  # pixels per frame
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    chequers = ((x // 32 + y // 32) % 2) * 0.15 + 0.35 + 0.3 * y / SIDE
    floor = torch.stack([chequers, chequers * 0.95, chequers * 0.85])  # (3, SIDE, SIDE) in [0, 1]
    frames = []
    for _ in range(FRAMES):
        frame = floor.clone()
        for colour, radius, place in zip(colours, radii, places, strict=True):
            dy, dx = (y - place[0]) / radius, (x - place[1]) / radius
            depth = (1 - dx.square() - dy.square()).clamp(min=0).sqrt()  # the normal's z on the sphere
            light = (0.25 + 0.75 * (0.5 * depth - 0.5 * dy - 0.4 * dx).clamp(min=0)).clamp(max=1)
            cover = ((1 - (dx.square() + dy.square()).sqrt()) * radius + 0.5).clamp(0, 1)  # antialiased edge
            frame = frame * (1 - cover) + colour[:, None, None] * light * cover
        frames.append(frame * 2 - 1)
        places = places + speeds
        outside = (places < radii[:, None]) | (places > SIDE - radii[:, None])
        speeds = torch.where(outside, -speeds, speeds)
        places = places.clamp(radii[:, None], SIDE - radii[:, None])
    return torch.stack(frames, dim=1).clamp(-1, 1)
