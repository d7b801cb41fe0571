"""What each tokenizer and codec made of the same files, and the tables of it."""

import math
from dataclasses import dataclass, field
from typing import Any

from omnitok.data.modality import Modality
from omnitok.metrics.tables import ShownAsTables, Table

_RGBA = ("red", "green", "blue", "alpha")


@dataclass
class FileFigures:
    """What came back of one file. `tokens` are None for a codec."""

    input: str
    width: int
    height: int
    frames: int
    tokens: int | None
    bits: float
    psnr: float
    seconds: float

    @property
    def pixels(self) -> int:
        """Of all frames."""
        return self.frames * self.height * self.width

    @property
    def bits_per_pixel(self) -> float:
        """Of all frames."""
        return self.bits / self.pixels


@dataclass
class Comparison:
    """What one tokenizer, or one codec at one setting, made of all images or of all videos.

    Attributes:
        name: short, for tables; `model` is as it was given.
        codec: "JPEG", "H.264" or "AV1" of a reference; None for a tokenizer.
        values: metric -> number over the set.
        per_channel: of pixels that are not in colour, "psnr" and "ssim" of each channel.
        parameters: of the tokenizer.
        peak_memory: bytes while the tokenizer worked, itself included: of the process, or on a GPU of what torch held.
        error: why it could not, in one sentence; there are no figures then.
    """

    model: str
    name: str
    modality: Modality
    model_sha256: str = ""
    codec: str | None = None
    files: list[FileFigures] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    per_channel: dict[str, tuple[float, ...]] = field(default_factory=dict)
    parameters: int | None = None
    peak_memory: int | None = None
    error: str | None = None

    @property
    def bits_per_pixel(self) -> float:
        """Of all files together."""
        return sum(file.bits for file in self.files) / sum(file.pixels for file in self.files)

    def row(self) -> dict[str, Any]:
        """Plain JSON values; means are over files."""
        row: dict[str, Any] = {"model": self.model, "codec": self.codec, "modality": self.modality}
        if self.error is not None:
            return row | {"error": self.error}
        row |= {"model_sha256": self.model_sha256 or None, "n": len(self.files), "tokens": self.mean_tokens}
        row |= {"bits_per_pixel": round(self.bits_per_pixel, 6)}
        row |= {name: _finite(value) for name, value in self.values.items()}
        row |= {f"{name}_per_channel": [_finite(x) for x in values] for name, values in self.per_channel.items()}
        row |= {"seconds": self.mean_seconds, "peak_memory": self.peak_memory, "parameters": self.parameters}
        files = []
        for file in self.files:
            decibels = round(file.psnr, 4) if math.isfinite(file.psnr) else None
            figures = {"bits_per_pixel": round(file.bits_per_pixel, 6), "psnr": decibels, "seconds": file.seconds}
            size = {"width": file.width, "height": file.height, "frames": file.frames, "tokens": file.tokens}
            files.append({"input": file.input, **size, **figures})
        return row | {"files": files}

    @property
    def mean_tokens(self) -> float | None:
        """Per file."""
        counts = [file.tokens for file in self.files if file.tokens is not None]
        return sum(counts) / len(counts) if counts else None

    @property
    def mean_seconds(self) -> float:
        """Encoding and decoding, per file."""
        return round(sum(file.seconds for file in self.files) / len(self.files), 4)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Comparisons(ShownAsTables, list[Comparison]):
    """All comparisons of one call, which a notebook shows as tables."""

    def tables(self) -> list[Table]:
        """For each modality the tokenizers' figures, then, where pixels are not in colour, a metric of each channel."""
        found = []
        for modality in dict.fromkeys(c.modality for c in self):
            found.append(self.table(modality))
            able = [c for c in self if c.modality == modality and c.codec is None and c.per_channel]
            for metric in able[0].per_channel if able else ():
                count = len(able[0].per_channel[metric])
                titles = [f"{metric} ({modality}s)", *(_RGBA if count == 4 else [f"channel {i}" for i in range(count)])]
                found.append((titles, [[c.name, *(f"{x:.4g}" for x in c.per_channel[metric])] for c in able]))
        return found

    def notes(self) -> list[str]:
        """Why some could not."""
        return [f"{c.name} ({c.modality}s): {c.error}" for c in self if c.error is not None]

    def table(self, modality: Modality) -> Table:
        """Titles and cells of the tokenizers over one modality."""
        own = [c for c in self if c.modality == modality and c.codec is None]
        metrics = list(dict.fromkeys(name for c in own for name in c.values))
        titles = [f"model ({modality}s)", "bits/pixel", "tokens", *metrics, "seconds", "peak MB", "parameters"]
        rows = []
        for c in own:
            if c.error is not None:
                rows.append([c.name, *["-"] * (len(titles) - 1)])
                continue
            figures = [f"{c.values[name]:.4g}" if name in c.values else "-" for name in metrics]
            memory = "-" if c.peak_memory is None else f"{c.peak_memory / 1e6:.0f}"
            parameters = "-" if c.parameters is None else f"{c.parameters / 1e6:.1f} M"
            rows.append([c.name, f"{c.bits_per_pixel:.4f}", f"{c.mean_tokens:.0f}", *figures, f"{c.mean_seconds:.2f}"])
            rows[-1] += [memory, parameters]
        return titles, rows
