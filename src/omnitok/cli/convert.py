"""`omnitok convert`: a released checkpoint to a folder that loads by itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from omnitok.atomic import is_temporary
from omnitok.cli.options import CommonOptions, require_paths, resolve_device
from omnitok.cli.report import Column, Report, cell
from omnitok.errors import CheckpointError, OmnitokError

if TYPE_CHECKING:
    from omnitok.models.protocol import Tokenizer

COLUMNS = (
    Column("model", cell("kind")),
    Column("parameters", lambda row: f"{row['parameters']:,}"),
    Column("seconds", cell("seconds", 2)),
)


@dataclass(frozen=True, kw_only=True)
class Convert(CommonOptions):
    """Read a released checkpoint and write config.json, model.safetensors and a model card.

    Nothing inside the checkpoint's pickle is executed. The written folder is loaded again and must give, for a random
    image or video (--seed) on --device, exactly what the checkpoint gives.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The released .ckpt, .pt, .jit or .safetensors of a tokenizer, OmniTokenizer's or another project's."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to write."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        self.check_common()
        _require_free(self.out)
        require_paths(self.file)
        if self.file.is_dir():
            raise OmnitokError(f"{self.file}: is a folder; FILE must be a released checkpoint")
        from torch import nn

        from omnitok.peers import load_tokenizer

        started = time.perf_counter()
        device = resolve_device(self.device)
        model = load_tokenizer(self.file)
        assert isinstance(model, nn.Module)
        model.save_pretrained(self.out)
        self._verify(model.to(device))
        report = Report(COLUMNS, self.json)
        report.add(
            {
                "input": str(self.file),
                "output": str(self.out),
                "kind": "tokenizer (VQ)" if model.is_discrete else "tokenizer (VAE)",
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
        return report.finish(f"The model is in {self.out}; use it with --model {self.out}")

    def _verify(self, model: Tokenizer) -> None:
        import torch

        from omnitok.peers import load_tokenizer

        frames, (_, h, w) = model.num_frames(1), model.downsample
        shape = (1, 3, 8 * h, 8 * w) if frames == 1 else (1, 3, frames, 8 * h, 8 * w)
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(self.seed)) * 2 - 1
        written = load_tokenizer(self.out, device=model.device, dtype=model.dtype)
        with torch.inference_mode():
            first, second = (each.decode(each.encode(pixels).latents) for each in (model, written))
        if not torch.equal(first, second):
            raise CheckpointError(
                f"{self.out}: gives other pixels than {self.file}; do not use it, and please report it"
            )


def _require_free(out: Path) -> None:
    """Refuse to replace anything but an earlier conversion.

    Raises:
        OmnitokError: a file, or a folder with other things in it.
    """
    if out.exists() and not out.is_dir():
        raise OmnitokError(f"{out}: is a file; OUT must be a new folder")
    if out.is_dir():
        ours = ("config.json", "model.safetensors", "README.md")
        others = [entry.name for entry in out.iterdir() if entry.name not in ours and not is_temporary(entry.name)]
        if others:
            raise OmnitokError(f"{out}: the folder holds other files ({others[0]}); OUT must be a new folder")
