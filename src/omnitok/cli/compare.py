"""`omnitok compare` (also `omnitok evaluate compare`): the same files through several tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

import omnitok
from omnitok.cli.failures import UsageError
from omnitok.cli.measuring import MetricsOptions, counting, load_model, parse_names, write_results
from omnitok.cli.options import ChannelRanges, channel_ranges, require_models, require_paths, resolve_device
from omnitok.cli.report import print_json, print_table, say
from omnitok.hub.names import short_names


@dataclass(frozen=True, kw_only=True)
class Compare(MetricsOptions):
    """Send the same images and videos through several tokenizers: figures, images and videos side by side, a plot.

    Prints a table: bits per pixel, tokens, metrics, seconds per file, peak memory, parameters. OUT gets index.html, one
    page with everything in it, and what it shows: rate-distortion.png (quality over bits per pixel, with JPEG, H.264
    and AV1 as references), pictures/ (each input, what every tokenizer made of it, maps of the errors) and
    results.json. Files keep their size unless --resolution says otherwise; of a video the first --frames are taken.

    The models must take the same channels: of others than red, green and blue there are figures per channel.

    For example: omnitok compare photos video.mp4 --models omnitok-tiny-vq omnitok-tiny-vae -o comparison
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT...")] = ()
    """Images, videos, or folders and lists of them."""
    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL...")] = ()
    """Tokenizers: names, folders, released checkpoints (also of other projects), whatever `omnitok models` takes."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The older spelling: `omnitok compare MODEL... --data DIR`."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("omnitok-comparison")
    """Folder for the results."""
    ranges: ChannelRanges = None
    """Values of .npy and multi-band TIFF files that become -1 and 1: LOW:HIGH of every channel, or one for all
    (default: those that the models were trained with)."""
    pictures: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """How many images, and how many videos, to show side by side."""
    no_references: bool = False
    """Leave out JPEG, H.264 and AV1, which are for colour."""

    def run(self) -> int:
        """Measure, draw and write; the exit code."""
        self.check_common()
        inputs, models, metrics = self._arguments()
        if self.pictures < 0:
            raise UsageError(f"--pictures must be at least 0, found {self.pictures}")
        channel_ranges(self.ranges)
        require_paths(*map(Path, inputs))
        require_models(*models)
        config, device = self.config(), resolve_device(self.device)
        from omnitok.metrics import comparison
        from omnitok.metrics.comparison_page import write_page

        with counting("models and codecs", "pass") as advance:
            found, shown = comparison.compare(
                inputs,
                short_names(models),
                partial(load_model, device=device, ranges=self.ranges),
                self.out,
                metrics,
                config,
                weights_dir=self.weights_dir,
                device=device,
                references=not self.no_references,
                shown=self.pictures,
                progress=advance,
            )
        rows = [item.row() for item in found]
        write_results(rows, config.protocol, self.out)
        page = self.out / "index.html"
        write_page(found, shown, self.out / comparison.PLOT, page)
        failed = [item for item in found if item.error is not None]
        for item in failed:
            say(f"error: {item.name}: {item.error}")
        if self.json:
            print_json(rows)
        else:
            for titles, cells in found.tables():
                print_table(titles, cells)
        say(f"everything is in {page}")
        return 1 if failed else 0

    def _arguments(self) -> tuple[list[str], list[str], tuple[str, ...] | None]:
        """Inputs, models and metrics, in either spelling; UsageError where one of the first two is missing."""
        names, given = self.metrics, list(self.inputs)
        if not given:  # they may have come after the names of metrics
            split = next((i for i, part in enumerate(names) if not omnitok.metrics.is_metric(part)), len(names))
            names, given = names[:split], list(names[split:])
        inputs, models = (given, list(self.models)) if self.data is None else ([str(self.data)], given)
        if self.data is not None and self.models:
            inputs, models = [*given, *inputs], list(self.models)
        if not inputs:
            raise UsageError("give at least one image, video or folder; --help shows the options")
        if not models:
            raise UsageError("give at least one model after --models; `omnitok models` lists them")
        return inputs, list(dict.fromkeys(models)), parse_names(names)
