"""The command `omnitok`: one module a verb. Nothing here imports torch before a verb runs, so `--help` is quick.

Exit codes: 0 fine; 1 some work failed; 2 the command line makes no sense; 130 interrupted.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import tyro

from omnitok.cli.convert import Convert
from omnitok.cli.decode import Decode
from omnitok.cli.demo import Demo
from omnitok.cli.encode import Encode
from omnitok.cli.evaluate import Evaluate
from omnitok.cli.failures import UsageError, explain
from omnitok.cli.generate import Generate
from omnitok.cli.models import Models
from omnitok.cli.reconstruct import Reconstruct
from omnitok.cli.tokenize import Tokenize
from omnitok.cli.train import Train

__all__ = ["VERBS", "main"]


class Verb(Protocol):
    """The parsed options of a verb."""

    def run(self) -> int:
        """Do the work; the exit code."""


VERBS: dict[str, Callable[..., Verb]] = {
    "reconstruct": Reconstruct,
    "encode": Encode,
    "decode": Decode,
    "convert": Convert,
    "models": Models,
    "demo": Demo,
    "tokenize": Tokenize,
    "train": Train,
    "generate": Generate,
    "evaluate": Evaluate,
}
"""Verb -> the frozen dataclass of its options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and give its exit code. Never raises what a user can cause."""
    try:
        verb = tyro.extras.subcommand_cli_from_dict(
            VERBS,
            prog="omnitok",
            description="Pictures and clips to tokens or latents and back (OmniTokenizer).",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _print_warning
            code = verb.run()
        sys.stdout.flush()
        return code
    except SystemExit as leaving:  # --help gives 0, a command line that cannot be parsed 2
        return leaving.code if isinstance(leaving.code, int) else 2
    except BrokenPipeError:  # the reader of a pipe, such as `head`, left; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("omnitok: interrupted; finished files are kept, the unfinished one is removed", file=sys.stderr)
        return 130
    except Exception as error:  # the last line of defence: a sentence, never a bare traceback
        if os.environ.get("OMNITOK_DEBUG") == "1":
            traceback.print_exc()
        print(f"omnitok: error: {explain(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"omnitok: warning: {message}", file=sys.stderr)
