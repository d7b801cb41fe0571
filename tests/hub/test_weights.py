import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omnitok.cli import main
from omnitok.errors import MissingWeightsError
from omnitok.hub.weights import WEIGHTS, WeightsFile, fetch_weights, file_sha256, find_weights, read_weights


@pytest.fixture
def known_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file that the table knows as the weights "tiny"; its second name, in a folder of its own."""
    path = tmp_path / "sub" / "tiny.pth"
    path.parent.mkdir()
    torch.save({"weight": torch.ones(2, dtype=torch.float16)}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    tiny = WeightsFile("tiny weights", ("other.pth", "sub/tiny.pth"), sha256[:8], "https://example.org/tiny", "CC0-1.0")
    monkeypatch.setitem(WEIGHTS, "tiny", tiny)
    monkeypatch.delenv("OMNITOK_WEIGHTS", raising=False)
    return path


def test_found_by_option_and_by_variable(known_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = known_file.parents[1]
    assert find_weights("tiny", folder) == known_file
    monkeypatch.setenv("OMNITOK_WEIGHTS", str(folder))
    assert find_weights("tiny") == known_file
    state = read_weights("tiny")
    torch.testing.assert_close(state["weight"], torch.ones(2))  # float32, whatever the file holds


def test_the_option_wins_over_the_variable(known_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNITOK_WEIGHTS", str(known_file.parents[1]))
    with pytest.raises(MissingWeightsError, match="it is not in"):
        find_weights("tiny", tmp_path / "elsewhere")


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_a_missing_file_says_all_that_mends_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNITOK_WEIGHTS", raising=False)
    weights = WEIGHTS[name]
    for folder in (None, tmp_path):
        with pytest.raises(MissingWeightsError) as caught:
            find_weights(name, folder)
        message = str(caught.value)
        for part in (weights.file_names[0], weights.sha256[:8], weights.source, "--weights-dir", "OMNITOK_WEIGHTS"):
            assert part in message
        assert "\n" not in message


def test_found_where_torch_keeps_its_downloads(
    known_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "torch"
    (home / "hub").mkdir(parents=True)
    known_file.parents[1].joinpath("sub").rename(home / "hub" / "sub")
    (home / "hub" / "checkpoints").mkdir()
    (home / "hub" / "sub").rename(home / "hub" / "checkpoints" / "sub")
    monkeypatch.setenv("TORCH_HOME", str(home))
    assert find_weights("tiny") == home / "hub/checkpoints/sub/tiny.pth"
    (home / "hub/checkpoints/other.pth").write_bytes(b"another file of that name does not hide it")
    assert find_weights("tiny") == home / "hub/checkpoints/sub/tiny.pth"


def test_fetching_checks_the_hash_and_leaves_nothing_wrong(
    known_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "weights"
    monkeypatch.setenv("OMNITOK_WEIGHTS", str(target))
    monkeypatch.setitem(WEIGHTS, "tiny", replace(WEIGHTS["tiny"], source=known_file.as_uri()))
    assert main(["weights", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "missing"
    monkeypatch.setitem(WEIGHTS, "tiny", replace(WEIGHTS["tiny"], file_names=("tiny.pth",)))
    assert main(["weights", "tiny", "--fetch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["path"] == str(target / "tiny.pth")
    assert find_weights("tiny") == target / "tiny.pth"
    (target / "tiny.pth").unlink()
    known_file.write_bytes(b"changed on its way")
    assert main(["weights", "tiny", "--fetch"]) == 1
    assert "cannot be read as a file of weights: invalid hash value" in capsys.readouterr().err
    assert not list(target.iterdir())
    with pytest.raises(MissingWeightsError, match="its source is no file"):
        fetch_weights("i3d")


def test_another_hash_is_refused_and_named(known_file: Path) -> None:
    known_file.write_bytes(b"something else")
    with pytest.raises(MissingWeightsError, match=f"has the sha256 {file_sha256(known_file)[:16]}"):
        read_weights("tiny", known_file.parents[1])


def test_the_table_is_well_formed() -> None:
    for weights in WEIGHTS.values():
        assert 8 <= len(weights.sha256) <= 64
        assert set(weights.sha256) <= set("0123456789abcdef")
        for file_name in weights.file_names:
            prefix = Path(file_name).stem.rpartition("-")[2]
            if len(prefix) == 8:  # torchvision and pytorch-fid put it into the name
                assert weights.sha256.startswith(prefix)


def test_a_pickle_that_runs_code_is_not_run(known_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Touch()}, known_file)
    sha256 = file_sha256(known_file)
    monkeypatch.setitem(WEIGHTS, "tiny", WeightsFile("tiny", ("sub/tiny.pth",), sha256, "nowhere", "CC0-1.0"))
    with pytest.raises(MissingWeightsError, match="cannot be read as a file of weights"):
        read_weights("tiny", known_file.parents[1])
    assert not (tmp_path / "ran").exists()
