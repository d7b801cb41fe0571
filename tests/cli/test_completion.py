"""Completion of command lines by a shell, asked as the shell asks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from omnitok.cli import VERBS, main

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_tyro_omnitok
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "omnitok.bash"
    assert main(["--tyro-write-completion", "bash", str(path)]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "words, offered",
    [
        ("", [*VERBS]),
        ("rec", ["reconstruct", "recipes"]),
        ("reconstruct --d", ["--device", "--dtype"]),
        ("reconstruct --dtype ", ["float32", "bfloat16"]),
        ("evaluate reconstruction --pro", ["--protocol"]),  # whose description has two lines
        ("reconstruct im", ["image.png"]),
        ("reconstruct --model im", ["image.png"]),
    ],
)
def test_bash_offers(words: str, offered: list[str], bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "image.png").touch()
    command = ["bash", "-c", ASK, "bash", str(bash_script), "omnitok", *words.split(" ")]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split("\n")
    assert {word for word in shown if word} - {"--help", "-h"} == set(offered)


@pytest.mark.parametrize("shell", ("bash", "zsh", "fish"))
def test_each_script_completes_every_verb_and_falls_back_to_files(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--tyro-print-completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(f"'{verb}': {{'description'" in script for verb in VERBS)
    assert "completions or ['__TYRO_COMPLETE_FILES__']" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)  # it parses


@pytest.mark.parametrize("words", (["--tyro-print-completion"], ["--tyro-print-completion", "cmd"]))
def test_an_unknown_shell_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "bash, zsh, fish" in said
    assert len(said.splitlines()) == 1


def test_the_script_is_made_without_torch() -> None:
    code = (
        "import sys; from omnitok.cli import main; main(['--tyro-print-completion', 'bash']); "
        "sys.exit(bool({'torch', 'numpy', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
