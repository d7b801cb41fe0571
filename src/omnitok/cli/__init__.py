"""The command `omnitok`: one module per verb, imported when the verb is called, so that `--help` is quick.

Exit codes: 0 fine; 1 some work failed; 2 the command line makes no sense; 130 interrupted, 143 terminated.
"""

import contextlib
import difflib
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from types import FrameType
from typing import Any, Protocol

import docstring_parser
import tyro
from docstring_parser import DocstringStyle as Style

import omnitok
from omnitok.cli import completion
from omnitok.cli.complaints import as_usage_errors
from omnitok.cli.elsewhere import writing_elsewhere
from omnitok.cli.failures import UsageError, explain, show_traceback_if_debugging
from omnitok.cli.options import check_no_settings
from omnitok.cli.report import renamed
from omnitok.errors import OmnitokError, reason
from omnitok.files import check_scheme

__all__ = ["VERBS", "main"]

VERBS = {
    "reconstruct": "Encode images and videos, decode them again, and say how good the results are.",
    "encode": "Turn images and videos into files of tokens.",
    "decode": "Turn files of tokens back into images and videos.",
    "convert": "Turn a released checkpoint into a model folder.",
    "export": "Write a tokenizer, or a generator's step, as graphs that run without omnitok.",
    "push": "Upload a model to the Hugging Face hub, with its card and, of a generator, its tokenizer.",
    "models": "List the models that can be given by name.",
    "demo": "Reconstruct images and videos that need no download.",
    "app": "Open a page in the browser: reconstruct, edit tokens, generate, predict, interpolate, inpaint, compare.",
    "tokenize": "Turn a collection of images and videos into token shards for training.",
    "recipes": "List the recipes of `train`, with purpose, data, cost and expected score.",
    "train": "Train a tokenizer or a generator by a recipe.",
    "generate": "Sample images and videos from a generator, or continue, fill, widen and join given ones.",
    "evaluate": "Measure tokenizers and samples: PSNR, SSIM, LPIPS, FID, FVD, IS, KID and more.",
    "compare": "Measure several tokenizers on one set, side by side.",
    "weights": "Say which weights of feature networks are there, and fetch those that are not.",
}
"""Verb -> what it does; `omnitok.cli.VERB` holds the dataclass of its options, named like the verb."""

_HOW: dict[str, Any] = {"config": (tyro.conf.FlagCreatePairsOff,), "use_underscores": False}
"""Options of `tyro.cli`."""


class Verb(Protocol):
    """The parsed options of a verb."""

    def run(self) -> int:
        """Do the work; the exit code."""


class _Terminated(BaseException):
    """SIGTERM, raised like Ctrl-C so that files, locks and processes are cleaned up on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and give its exit code. Never raises what a user can cause."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminable(), warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _print_warning
            verb = _parse(list(sys.argv[1:] if argv is None else argv))
            if verb is None:
                return 0
            with writing_elsewhere(verb) as local:
                code: int = local.run()
            sys.stdout.flush()
        return code
    except SystemExit as leaving:  # --help gives 0, a command line that cannot be parsed 2
        return leaving.code if isinstance(leaving.code, int) else 2
    except BrokenPipeError:  # the reader of a pipe, such as `head`, left; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, _Terminated) as stop:
        was = "interrupted" if isinstance(stop, KeyboardInterrupt) else "terminated"
        print(f"omnitok: {was}; finished files are kept, the unfinished one is removed", file=sys.stderr)
        return 128 + (signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
    except Exception as error:  # the last line of defence: a sentence, never a bare traceback
        show_traceback_if_debugging()
        print(f"omnitok: error: {renamed(explain(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


@contextlib.contextmanager
def _flowing_help() -> Iterator[None]:
    """Let the help of an option flow: tyro breaks it wherever an indented docstring of a field breaks its lines."""
    parse = docstring_parser.parse_from_object

    def parse_flowing(obj: object, style: Style = Style.AUTO) -> docstring_parser.Docstring:
        docstring = parse(obj, style)
        for field in docstring.params:
            field.description = field.description and re.sub(r"(?<!\n)\n[ \t]*(?!\n)", " ", field.description)
        return docstring

    docstring_parser.parse_from_object = parse_flowing
    try:
        yield
    finally:
        docstring_parser.parse_from_object = parse


@_flowing_help()  # completion too: tyro keeps what it has read
def _parse(arguments: list[str]) -> Verb | None:
    """The verb with its options; None where the answer is printed already."""
    verb = arguments[0] if arguments else ""
    if verb in ("-h", "--help"):
        print(_overview())
        return None
    if verb == "--version":
        print(f"omnitok {omnitok.__version__}")
        return None
    if verb in completion.FLAGS:
        completion.complete(arguments, VERBS, **_HOW)
        return None
    if verb not in VERBS:
        raise UsageError(_unknown(verb))
    _require_working_folder()
    options: type[Verb] = getattr(import_module(f"omnitok.cli.{verb}"), verb.capitalize())
    args = [_local(before, argument) for before, argument in pairwise(arguments)]
    if verb == "train":
        check_no_settings(args, options)
    with as_usage_errors(options, args):
        parsed = tyro.cli(options, prog=f"omnitok {verb}", args=args, **_HOW)
    verb_of_verb: Verb = getattr(parsed, "action", parsed)  # `evaluate` has verbs of its own
    return verb_of_verb


def _local(before: str, argument: str) -> str:
    """An argument, or the VALUE of `--option=VALUE`, without `file://`; MediaError for URLs that nothing reads."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if (option or before).replace("_", "-") != "--ray-address":  # ray://HOST:10001
        check_scheme(value)
    return f"{option}{equals}{value.removeprefix('file://')}"


def _require_working_folder() -> None:
    """Say what is missing before torch is imported, which would end the process with a message of its own."""
    try:
        os.getcwd()
    except OSError as error:
        raise OmnitokError(
            f"the current folder cannot be used, it may have been removed ({reason(error)}): `cd` to another"
        ) from error


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb.ljust(width)}  {does}" for verb, does in VERBS.items())
    return (
        "usage: omnitok VERB ...\n\n"
        "Images and videos to tokens or latents and back (OmniTokenizer).\n\n"
        f"{verbs}\n\n`omnitok VERB --help` shows the options of a verb, `omnitok --version` the version.\n"
        "`omnitok --tyro-print-completion bash` (zsh, fish) prints a script that completes command lines."
    )


def _unknown(verb: str) -> str:
    if not verb:
        return f"give a verb: {', '.join(VERBS)}"
    near = [known for known in VERBS if known.startswith(verb)] or difflib.get_close_matches(verb, VERBS, 1)
    hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}"
    return f"there is no verb {verb!r}; {hint}"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Within the context SIGTERM ends the work as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"omnitok: warning: {renamed(str(message))}", file=sys.stderr)
