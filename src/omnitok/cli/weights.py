"""`omnitok weights`: which files the metrics and losses need, where they are, and fetching them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from omnitok.cli.failures import UsageError
from omnitok.cli.measuring import OptionalFolder
from omnitok.cli.options import SAID, CommonOptions
from omnitok.cli.report import Column, Report, Row, cell
from omnitok.errors import MissingWeightsError

COLUMNS = (Column("status", cell("status")), Column("file", cell("file")), Column("where or from", cell("path")))


@dataclass(frozen=True, kw_only=True)
class Weights(CommonOptions):
    """Say which weights of feature networks are found, check their hashes, and with --fetch download what is missing.

    LPIPS, FID's Inception, I3D and MobileNetV2 belong to others, each under its own licence. They are looked for in
    --weights-dir, else in the folder that OMNITOK_WEIGHTS names and where torch keeps its downloads. --device and
    --seed change nothing here.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME..."), SAID] = ()
    """Names of the weights (default: all)."""
    weights_dir: OptionalFolder = None
    """Look, and put what is fetched, in this folder only."""
    fetch: bool = False
    """Download what is missing, where the source is a file. MobileNetV2 is converted from the .tflite that its authors
    published, which is not downloaded where it lies in the folder."""

    def run(self) -> int:
        """Print the table; the exit code is 1 where something that was to be fetched could not be."""
        self.check_common()
        from omnitok.hub.weights import WEIGHTS as known

        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise UsageError(f"weights are {', '.join(known)}, found {', '.join(unknown)}")
        report = Report(COLUMNS, self.json, name_key="name")
        for name in self.names or known:
            try:
                report.add(self._row(name))
            except MissingWeightsError as error:
                report.fail(name, str(error))
        return report.finish(
            "" if self.fetch else "`omnitok weights --fetch NAME` downloads a file and checks its hash"
        )

    def _row(self, name: str) -> Row:
        from omnitok.hub.weights import WEIGHTS, fetch_weights, find_weights

        weights = WEIGHTS[name]
        row = {"name": name, "file": weights.file_names[0], "sha256": weights.sha256, "licence": weights.licence}
        try:
            if self.fetch:
                path = fetch_weights(name, self.weights_dir, progress=not self.json)
            else:
                path = find_weights(name, self.weights_dir)
        except MissingWeightsError as error:
            if self.fetch and (self.names or weights.can_be_fetched):
                raise
            wrong = "instead" in str(error)
            return {
                **row,
                "status": "other hash" if wrong else "missing",
                "path": weights.source,
                "title": weights.title,
            }
        return {**row, "status": "found", "path": str(path), "title": weights.title}
