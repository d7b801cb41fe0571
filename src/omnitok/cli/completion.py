"""Completion of a shell's command line: `omnitok --tyro-print-completion bash`."""

import contextlib
import io
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from omnitok.atomic import atomic_path
from omnitok.cli.failures import UsageError

FLAGS = {"--tyro-print-completion": ("SHELL",), "--tyro-write-completion": ("SHELL", "FILE")}
"""Tyro's own spelling -> what is to follow."""

SHELLS = ("bash", "zsh", "fish")

# What tyro's scripts lack: files where an argument has no flag, one line per completion (descriptions have several),
# and in bash the word as it was typed (they glue it to the word before it).
_MENDED = {
    "for completion in completions:\n        print(completion)": (
        "for completion in completions or ['__TYRO_COMPLETE_FILES__']:\n        print(*completion.splitlines())"
    ),
    'compgen -f -- "$cur"': 'compgen -f -- "${COMP_WORDS[COMP_CWORD]}"',
}


def complete(arguments: list[str], verbs: Iterable[str], **how: Any) -> None:
    """Print the script that completes verbs, options, their choices and files, or write it to a file.

    Args:
        arguments: one of `FLAGS` and what follows it.
        verbs: their names.
        how: options of `tyro.cli`.

    Raises:
        UsageError: no shell that is known, or something else missing.
    """
    flag, *rest = arguments
    if len(rest) != len(FLAGS[flag]) or rest[0] not in SHELLS:
        found = " ".join(rest) or "nothing"
        raise UsageError(f"give {flag} {' '.join(FLAGS[flag])}, the SHELL one of {', '.join(SHELLS)}; found {found}")
    options = [
        Annotated[
            getattr(import_module(f"omnitok.cli.{verb}"), verb.capitalize()),
            tyro.conf.subcommand(verb, prefix_name=False),
        ]
        for verb in verbs
    ]
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        args = ["--tyro-print-completion", rest[0]]
        any_verb: Any = Union[tuple(options)]  # noqa: UP007 (made of a list)
        tyro.cli(any_verb, prog="omnitok", args=args, **how)
    text = script.getvalue()
    for theirs, ours in _MENDED.items():
        text = text.replace(theirs, ours)
    if len(rest) == 1:
        print(text, end="")
        return
    with atomic_path(Path(rest[1])) as temporary:
        temporary.write_text(text, encoding="utf-8")
