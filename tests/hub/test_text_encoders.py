"""Frozen text encoders: the library's own answers without padding, lengths, and folders that are none."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.text_models import save_clip, save_t5
from omnitok.errors import CheckpointError, MissingExtraError
from omnitok.hub import text_encoders
from omnitok.hub.text_encoders import TextEncoder, load_text_encoder

pytest.importorskip("transformers")

TEXTS = ["a red dress", "", "a green dress on a dark background", "unknown words"]
LONG = "a red dress " * 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    root = tmp_path_factory.mktemp("encoders")
    t5, clip = save_t5(root / "t5"), save_clip(root / "clip")
    return {"t5": (root / "t5", t5), "clip": (root / "clip", clip.text_model)}


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_embeddings_are_the_librarys_of_each_text_alone(folders: dict[str, tuple[Path, Any]], kind: str) -> None:
    folder, model = folders[kind]
    encoder = load_text_encoder(folder)
    assert (encoder.width, encoder.max_length) == (16, {"t5": 12, "clip": 10}[kind])
    found = encoder.encode(TEXTS)
    assert [x.shape for x in found] == [(4, 16), (1, 16), (8, 16), (3, 16)]
    for text, embeddings in zip(TEXTS, found, strict=True):
        ids = torch.tensor([encoder._tokens(text)])
        with torch.no_grad():
            wanted = model(input_ids=ids).last_hidden_state[0]
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings, wanted, atol=1e-5, rtol=1e-5)
    for one, other in zip(found, encoder.encode(TEXTS, batch_size=1), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert encoder.encode([]) == []


def test_nothing_of_it_is_trained(folders: dict[str, tuple[Path, Any]]) -> None:
    encoder = load_text_encoder(folders["t5"][0])
    assert not encoder.encode(["a dress"])[0].requires_grad
    assert not any(p.requires_grad for p in encoder._model.parameters())


def test_a_text_that_is_too_long_is_refused_or_cut_aloud(folders: dict[str, tuple[Path, Any]]) -> None:
    encoder = load_text_encoder(folders["t5"][0])
    with pytest.raises(ValueError, match=r"may have 12 tokens for .*t5, found 31: 'a red dress"):
        encoder.encode(["a dress", LONG])
    with pytest.warns(UserWarning, match="1 texts are cut to 12 tokens"):
        short, long = encoder.encode(["a dress", LONG], cut=True)
    assert (len(short), len(long)) == (3, 12)
    kept = "a red dress " * 3 + "a red"  # and the end
    torch.testing.assert_close(long, encoder.encode([kept])[0], atol=1e-5, rtol=1e-5)


def test_weights_in_parts_are_read(folders: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    whole, _ = folders["t5"]
    folder = Path(shutil.copytree(whole, tmp_path / "parts"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{index % 2 + 1:05d}-of-00002.safetensors" for index, name in enumerate(sorted(tensors))}
    for part in set(places.values()):
        save_file({n: tensors[n] for n in tensors if places[n] == part}, folder / part, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    one, other = load_text_encoder(whole), load_text_encoder(folder)
    assert torch.equal(one.encode(TEXTS)[0], other.encode(TEXTS)[0])
    assert one.sha256 != other.sha256
    (folder / places[sorted(tensors)[0]]).unlink()
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors: is missing"):
        load_text_encoder(folder)
    for place, problem in (
        ("../t5/model.safetensors", r"'\.\./t5/model\.safetensors', which is no file beside it"),
        ("model.bin", r"'model\.bin', which is no \.safetensors"),
    ):
        index.write_text(json.dumps({"weight_map": {"a": place}}))
        with pytest.raises(CheckpointError, match=problem):
            load_text_encoder(folder)


def broken(folders: dict[str, tuple[Path, Any]], tmp_path: Path, **fields: Any) -> Path:
    """The folder of T5 with other fields in its configuration."""
    folder = Path(shutil.copytree(folders["t5"][0], tmp_path / "broken"))
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model_type": "bert"}, "model_type is bert, where a text encoder is one of t5, "),
        ({"model_type": None}, "model_type is None"),
        ({"num_layers": 3}, "the weights lack 8 tensors, such as encoder.block.2"),
        ({"num_layers": 10**9}, "field num_layers asks for more than 1000 layers: 1000000000"),
        ({"d_ff": 32}, "the weights have other shapes for 4 tensors, such as encoder.block.0"),
    ],
)
def test_other_configurations_are_refused(
    folders: dict[str, tuple[Path, Any]], tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    folder = broken(folders, tmp_path, **fields)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_text_encoder(folder)
    assert str(folder) in str(caught.value)


def test_pickles_and_code_are_not_read(folders: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder = broken(folders, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors; weights in other formats are not read"):
        load_text_encoder(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        fields = json.loads((folder / name).read_text())
        own = {"AutoTokenizer": ["own.Own", "own.Own"], "AutoModel": "own.Own", "AutoConfig": "own.Own"}
        (folder / name).write_text(json.dumps(fields | {"auto_map": own}))
    with contextlib.suppress(CheckpointError):  # either is well: without the code it may be read or not
        load_text_encoder(folder)
    assert not ran.exists()


def test_a_folder_without_a_tokenizer_is_refused(folders: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder = broken(folders, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"holds no vocabulary \(tokenizer\.json or "):
        load_text_encoder(folder)


def test_names_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing: no such folder; give that of a model"):
        load_text_encoder(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_text_encoder(tmp_path)


def test_a_hub_id_is_fetched_file_by_file(
    folders: dict[str, tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def from_hub(repository: str, filename: str) -> Path:
        asked.append(filename)
        path = folders["t5"][0] / filename
        if not path.is_file():
            raise CheckpointError(f"{repository}: this hub repository holds no {filename}")
        return path

    monkeypatch.setattr(text_encoders, "from_hub", from_hub)
    encoder = load_text_encoder("someone/small-t5")
    assert isinstance(encoder, TextEncoder)
    assert encoder.name == "someone/small-t5"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(asked)
    assert not any(name.endswith((".bin", ".py", ".pkl")) for name in asked)


def test_transformers_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="pip install 'transformers'"):
        load_text_encoder(tmp_path)
