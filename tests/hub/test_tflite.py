import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from helpers.tflite import flatbuffer, quantize, random_convolution, small_mobilenet_v2, tflite
from omnitok.cli import main
from omnitok.errors import CheckpointError, MissingWeightsError
from omnitok.hub.mobilenet_v2 import NAMES, convert_mobilenet_v2
from omnitok.hub.tflite import MAX_BYTES, Convolution, QuantizedTensor, read_convolutions
from omnitok.hub.weights import WEIGHTS, fetch_weights, read_weights
from omnitok.losses.perceptual import MobileNetV2

PUBLISHED = Path(__file__).resolve().parents[2] / "../shared/weights/mobilenet_v2.safetensors"
ORIGINAL = "mobilenet_v2_1.0_224_quant.tflite"


def test_convolutions_come_in_the_order_of_the_graph_in_our_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    wanted = [random_convolution(rng, 4, 3, 3, 2), random_convolution(rng, 4, 1, 3, 5, is_depthwise=True)]
    path = tmp_path / "a.tflite"
    path.write_bytes(tflite(wanted))
    found = read_convolutions(path)
    assert [one.is_depthwise for one in found] == [False, True]
    for one, other in zip(found, wanted, strict=True):
        for tensor, given in ((one.weight, other.weight), (one.bias, other.bias)):
            np.testing.assert_array_equal(tensor.values, given.values)
            plain = (given.values.astype(np.float64) - given.zero_point) * float(given.scale)
            np.testing.assert_array_equal(tensor.dequantize("f8"), plain)
            np.testing.assert_allclose(tensor.dequantize("f4"), plain, rtol=1e-6)


def test_the_reference_library_reads_the_builders_files_alike() -> None:
    pytest.importorskip("flatbuffers")
    from flatbuffers import encode, number_types, packer
    from flatbuffers.table import Table

    convolution = random_convolution(np.random.default_rng(2), 4, 3, 3, 2)
    data = tflite([convolution])
    root = Table(data, encode.Get(packer.uoffset, data, 0))
    buffers = root.Vector(root.Offset(4 + 2 * 4))
    assert root.VectorLen(root.Offset(4 + 2 * 4)) == 3
    buffer = Table(data, root.Indirect(buffers + 4))
    weight = buffer.GetVectorAsNumpy(number_types.Uint8Flags, buffer.Offset(4))
    np.testing.assert_array_equal(weight, convolution.weight.values.transpose(0, 2, 3, 1).flatten())


def test_the_small_network_gets_our_names_and_loads(tmp_path: Path) -> None:
    path = tmp_path / ORIGINAL
    convolutions = small_mobilenet_v2()
    path.write_bytes(tflite(convolutions))
    forms = list(convert_mobilenet_v2(path))
    assert len(forms) == 4
    (tmp_path / "a.safetensors").write_bytes(forms[0])
    state = load_file(tmp_path / "a.safetensors")
    assert state.keys() == MobileNetV2().state_dict().keys()
    for name, convolution in zip(NAMES, convolutions, strict=True):
        np.testing.assert_array_equal(state[f"{name}.weight"], convolution.weight.dequantize("f4").astype(np.float16))
        np.testing.assert_array_equal(state[f"{name}.bias"], convolution.bias.dequantize("f4").astype(np.float16))


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the shared weights are not here")
def test_the_published_weights_come_out_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_file(PUBLISHED)
    convolutions = []
    for name in NAMES:
        bias = QuantizedTensor((state[f"{name}.bias"].astype(np.float64) * 2**24).astype("<i4"), np.float32(2**-24), 0)
        convolutions.append(Convolution(name.endswith("depthwise"), quantize(state[f"{name}.weight"]), bias))
    (tmp_path / ORIGINAL).write_bytes(tflite(convolutions))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # what is there is not downloaded
    assert main(["weights", "mobilenet_v2", "--fetch", "--weights-dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["path"] == str(tmp_path / "mobilenet_v2.safetensors")
    assert (tmp_path / "mobilenet_v2.safetensors").read_bytes() == PUBLISHED.read_bytes()
    assert read_weights("mobilenet_v2", tmp_path).keys() == state.keys()


def test_the_source_is_downloaded_and_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "elsewhere" / ORIGINAL
    source.parent.mkdir()
    source.write_bytes(tflite(small_mobilenet_v2()))
    content = list(convert_mobilenet_v2(source))[2]  # whichever of the forms has the hash
    sha256 = hashlib.sha256(content).hexdigest()
    small = replace(WEIGHTS["mobilenet_v2"], source=source.as_uri(), sha256=sha256)
    monkeypatch.setitem(WEIGHTS, "mobilenet_v2", small)
    assert fetch_weights("mobilenet_v2", tmp_path / "weights").read_bytes() == content
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["mobilenet_v2.safetensors"]


def test_other_weights_and_other_networks_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ORIGINAL
    fetch = ["weights", "mobilenet_v2", "--fetch", "--weights-dir", str(tmp_path)]
    with pytest.raises(MissingWeightsError, match=f"{ORIGINAL} .*`omnitok weights --fetch` converts it"):
        read_weights("mobilenet_v2", tmp_path)
    path.write_bytes(tflite(small_mobilenet_v2()))
    assert main(fetch) == 1
    assert f"{path}: is not the published {ORIGINAL}: its weights make a" in capsys.readouterr().err
    path.write_bytes(tflite(small_mobilenet_v2()[:-1]))
    assert main(fetch) == 1
    assert "is no MobileNetV2 1.0: its 52 convolutions, 17 of them depthwise" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [ORIGINAL]
    path.write_bytes(b"<html>")
    with pytest.raises(MissingWeightsError, match="cannot be read as a TFLite model: it does not have the identifier"):
        fetch_weights("mobilenet_v2", tmp_path)


def test_what_does_not_fit_into_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    good = tflite([random_convolution(np.random.default_rng(3), 4, 3, 3, 2)])
    tensors: dict[int, object] = {0: np.array([4], "<i4"), 1: 3}
    for content, sentence in (
        (b"\xff\xff\xff\x7f" + good[4:], "lies outside the"),
        (good[: len(good) // 2], "lies outside the|does not end within"),
        (flatbuffer({1: [{}] * 10_001}), "a list of 10001 tables, where at most 10000"),
        (flatbuffer({1: [], 2: []}), "it has 0 of what there must be one of: graph"),
        (flatbuffer({1: [{0: 3}], 2: [{0: [tensors], 3: [{1: np.array([0, 0, 9], "<i4")}]}], 4: [{}]}), "field 4"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=sentence) as caught:
            read_convolutions(path)
        assert str(caught.value).startswith(f"{path}: cannot be read as a TFLite model: ")
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse
    with pytest.raises(CheckpointError, match=f"at most {MAX_BYTES} are read"):
        read_convolutions(path)


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """A small file could ask for gigabytes otherwise."""
    weight = {0: np.array([64, 1, 1, 64], "<i4"), 1: 3, 2: 0, 4: {2: np.ones(1, "<f4"), 3: np.zeros(1, "<i8")}}
    bias = {0: np.array([0], "<i4"), 1: 2, 2: 1, 4: weight[4]}
    operator = {1: np.array([0, 0, 1], "<i4")}
    graph = {0: [weight, bias], 3: [operator] * 3}
    path = tmp_path / "a.tflite"
    path.write_bytes(flatbuffer({1: [{0: 3}], 2: [graph], 4: [{0: np.zeros(64 * 64, "u1")}, {}]}))
    with pytest.raises(CheckpointError, match="tensors share bytes"):
        read_convolutions(path)
