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
    from omnitok.models.tokenizer import OmniTokenizer

COLUMNS = (
    Column("model", cell("kind")),
    Column("parameters", lambda row: f"{row['parameters']:,}"),
    Column("seconds", cell("seconds", 2)),
)


@dataclass(frozen=True, kw_only=True)
class Convert(CommonOptions):
    """Read a released checkpoint and write config.json, model.safetensors and a model card.

    Nothing inside the checkpoint's pickle is executed. The written folder is loaded again and must give, for a random
    image (--seed) on --device, exactly what the checkpoint gives.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The released .ckpt, or reference .safetensors."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to write."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        self.check_common()
        _require_free(self.out)
        require_paths(self.file)
        from omnitok.hub.released import convert_checkpoint
        from omnitok.models.tokenizer import OmniTokenizer

        started = time.perf_counter()
        device = resolve_device(self.device)
        model = convert_checkpoint(self.file).eval()
        if not isinstance(model, OmniTokenizer):
            raise OmnitokError(
                f"{self.file}: holds a {type(model).__name__}, which this version cannot write as a folder"
            )
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

    def _verify(self, model: OmniTokenizer) -> None:
        import torch

        from omnitok.hub.folder import load_tokenizer

        side = 2 * model.config.patch_size * model.config.window_size
        generator = torch.Generator().manual_seed(self.seed)
        image = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
        written = load_tokenizer(self.out, device=model.device, dtype=model.dtype)
        with torch.inference_mode():
            if not torch.equal(model(image.to(model.device)), written(image.to(model.device))):
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
