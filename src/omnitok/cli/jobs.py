"""The work of a verb on its files, one after the other."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from omnitok.cli.failures import explain_for, show_traceback_if_debugging
from omnitok.cli.naming import Job
from omnitok.cli.report import Report, Row, frame_bar, progress_bar, say
from omnitok.data import VIDEO_SUFFIXES
from omnitok.errors import OmnitokError
from omnitok.files import url_of
from omnitok.models.protocol import Tokenizer


def run_jobs(
    jobs: Sequence[Job], report: Report, work: Callable[[Job, Callable[[int, int | None], None]], Row]
) -> None:
    """Every job's row into the report, with its input and seconds; one that fails is told, and the others go on.

    Args:
        work: gives the rest of a row; it is told how to report frames that are done, and how many there will be.
    """
    with progress_bar(len(jobs), "files", "file") as bar:
        for job in jobs:
            source = url_of(job.source) or str(job.source)
            started = time.perf_counter()
            try:
                if job.error is not None:
                    raise OmnitokError(job.error)
                with frame_bar(job.source) as progress:
                    row = {"input": source, "output": str(job.output), **work(job, progress)}
                report.add(row | {"seconds": round(time.perf_counter() - started, 3)})
            except Exception as error:
                show_traceback_if_debugging()
                report.fail(source, explain_for(source, error))
            except BaseException:  # Ctrl-C: what is done is told, as it is kept
                report.interrupt()
                raise
            bar.update()


def note_if_whole(tokenizer: Tokenizer, name: Path) -> None:
    """Say that a video will be in memory as a whole, where the tokenizer cannot stream."""
    if not tokenizer.causal and name.suffix.lower() in VIDEO_SUFFIXES:
        say(f"note: {name}: this model cannot stream (not causal), so the whole video is in memory; --fps thins it")
