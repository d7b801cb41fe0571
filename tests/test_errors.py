"""Every failure of a reader is one bounded sentence with the file and the reason."""

import errno
import json
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from omnitok.errors import LONGEST_QUOTE, MediaError, MissingExtraError, OmnitokError, describe, reading


def fail(error: BaseException) -> Callable[[], object]:
    def parse() -> None:
        raise error

    return parse


@pytest.mark.parametrize(
    "parse, why",
    [
        (lambda: json.loads("[" * 100_000), "nested too deeply"),
        (lambda: json.loads("{"), "Expecting property name"),
        (lambda: zlib.decompress(b"no"), "incorrect header"),
        (lambda: b"\xff".decode(), "can't decode byte"),
        (lambda: {}["missing"], "missing"),
        (lambda: os.stat("nul\0"), "embedded null"),
        (fail(MemoryError()), "out of memory"),
        (fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), "no space left on device"),
        (fail(ValueError("x\n" * 10)), "x"),
        (fail(ValueError("x" * 10_000)), "x..."),
        (fail(AssertionError()), "AssertionError"),
    ],
)
def test_whatever_a_parser_raises_becomes_one_sentence(parse: Callable[[], object], why: str) -> None:
    with pytest.raises(MediaError) as caught, reading("a.png", MediaError, "image"):
        parse()
    message = str(caught.value)
    assert message.startswith("a.png: cannot be read as an image: ")
    assert why in message
    assert len(message) < LONGEST_QUOTE + 100
    assert "\n" not in message


def test_own_errors_interrupts_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(OmnitokError, match=r"^mine$"), reading("a.png", MediaError):
        raise OmnitokError("mine")
    with pytest.raises(KeyboardInterrupt), reading("a.png", MediaError):
        raise KeyboardInterrupt
    with pytest.raises(MediaError, match="no such file"), reading(tmp_path / "a.png", MediaError):
        (tmp_path / "a.png").read_bytes()


def test_names_that_are_not_utf8_can_be_printed() -> None:
    with pytest.raises(OmnitokError) as caught, reading(os.fsdecode(b"caf\xe9.png")):
        raise ValueError("no")
    assert str(caught.value).encode() == rb"caf\xe9.png: cannot be read as a file: no"


def test_quoted_values_are_bounded_and_printable() -> None:
    assert describe("a\nb\x1b[31m\x00") == "a b�[31m�"
    assert len(describe(["x" * 10**6] * 3)) == LONGEST_QUOTE
    bomb: list[object] = ["x"]
    for _ in range(40):  # 2 to the 40th strings, were they written out
        bomb = [bomb, bomb]
    assert len(describe(bomb)) <= LONGEST_QUOTE
    assert describe(10**5000) == "a huge int"
    describe("\udce9").encode()


def test_a_missing_package_is_told_once_by_a_worker_too() -> None:
    """What comes from a process is pickled, and PyTorch's workers build the error anew from its message."""
    error = MissingExtraError.of("ray", "ray[data]")
    assert str(error).startswith("this needs the package 'ray', which is not installed: ")
    for again in (pickle.loads(pickle.dumps(error)), MissingExtraError(str(error))):
        assert str(again) == str(error)
