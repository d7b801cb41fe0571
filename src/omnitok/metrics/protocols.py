"""How a number is made: every choice between the files and the metric, under a name.

Numbers of two protocols are never comparable. `official` follows the authors' released evaluation code
(github.com/FoundationVision/OmniTokenizer: vqgan_eval.py, data.py, evaluation/), with its quirks; `clean` is what is
recommended for new measurements.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Resize = Literal["pytorch_fid", "tf1"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All choices of a measurement; the comments give what each value stands for."""

    name: str
    image_resolution: int = 256  # pixels per side of images, unless --resolution says otherwise
    video_resolution: int  # the same for videos
    fit: Literal["squash", "center_crop"]  # the whole image whatever its aspect, or its largest centred square
    resize: Literal["bicubic_8bit", "bicubic_float"]  # both antialiased: Pillow on 8 bits, or in float without rounding
    frames: int = 17  # consecutive ones of each video, at its own rate
    frame_choice: Literal["center", "first"]  # which of them
    posterior: Literal["sample", "mode"]  # the latents of a VAE that are decoded; samples are drawn by --seed
    quantize: Literal["truncate", "round"]  # how float pixels become 8 bits
    jpeg_quality: int | None  # feature networks see images after JPEG (4:2:0) where the source is one; None: never
    pixel_metrics_on: Literal["uint8", "float"]  # PSNR, SSIM, LPIPS: on quantized (before JPEG) or on float pixels
    rfid_resize: Resize = "pytorch_fid"  # Inception's own resizing for rfid
    fid_resize: Resize = "tf1"  # the same for fid, is, precision, recall, kid, as in the ADM evaluator
    float32_fvd: bool  # rfvd and fvd by the authors' float32 formula instead of float64
    generated_images: int = 50_000  # images that a generator is judged on
    generated_videos: int = 2048  # videos that a generator is judged on
    generated_video_resolutions: str  # their sizes, by data set
    splits: int = 10  # of the Inception score, in the order of the set
    nearest: int = 3  # k of precision and recall
    kid_subsets: int = 100  # of 1000 samples, drawn by --seed

    def describe(self) -> dict[str, Any]:
        """Every choice as plain JSON values."""
        return asdict(self)


OFFICIAL = Protocol(
    name="official",
    video_resolution=256,
    fit="squash",
    resize="bicubic_8bit",
    frame_choice="center",
    posterior="sample",
    quantize="truncate",
    jpeg_quality=75,  # Pillow's default: the authors save under the source's own name, .JPEG for ImageNet
    pixel_metrics_on="uint8",
    float32_fvd=True,
    generated_video_resolutions="UCF-101 128, Kinetics-600 64",
)

CLEAN = Protocol(
    name="clean",
    video_resolution=128,
    fit="center_crop",
    resize="bicubic_float",
    frame_choice="first",
    posterior="mode",
    quantize="round",
    jpeg_quality=None,
    pixel_metrics_on="float",
    float32_fvd=False,
    generated_video_resolutions="as they are",
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (OFFICIAL, CLEAN)}
"""Name -> protocol."""
