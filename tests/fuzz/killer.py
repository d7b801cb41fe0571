"""Runs command lines in forks of one process that has everything imported, and kills them at chosen moments.

A moment is the n-th time that the command is about to open a file for writing, to rename, to remove or to make a
folder, or so many seconds after that. It takes a JSON line `[argv, folder, moment, delay]` per command and answers with
one: `{"status": ..., "moments": ...}`, where a killed command has status -9 and moments are counted of whole ones.
"""

import importlib
import json
import os
import pkgutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

# What commands import when they run, so that their forks need not.
import torch._dynamo  # noqa: F401

import omnitok.cli
import omnitok.generation.loading
import omnitok.recipes
import omnitok.tokenization.pipeline
from omnitok.cli import main

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}


def kill() -> None:
    os.killpg(0, signal.SIGKILL)  # with the workers of its own


def run(argv: list[str], folder: str, moment: int, delay: float, report: Path) -> int:
    """Within a fork: the command, which ends itself at the moment; its exit code."""
    os.setsid()
    os.chdir(folder)
    own, count = os.getpid(), 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES) or os.getpid() != own:
            return
        count += 1
        if count == moment:
            if delay:
                threading.Timer(delay, kill).start()
            else:
                kill()

    sys.addaudithook(watch)
    code = main(argv)
    moments = count
    report.write_text(str(moments))
    return code


def serve() -> None:
    for module in pkgutil.iter_modules(omnitok.cli.__path__, "omnitok.cli."):
        importlib.import_module(module.name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        argv, folder, moment, delay = json.loads(line)
        report, log = Path(folder) / "moments", Path(folder) / "log"
        report.write_text("0")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(target, 1)
                os.dup2(target, 2)
                code = run(argv, folder, moment, delay, report)
                sys.stdout.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        moments = int(report.read_text() or 0)  # empty where the delayed kill came while it was written
        answer = {"status": os.waitstatus_to_exitcode(status), "moments": moments}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
