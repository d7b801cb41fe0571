"""The reader of released checkpoints: right on good files, inert on evil ones, one clear sentence on the rest."""

import argparse
import hashlib
import io
import json
import os
import pickle
import pickletools
import struct
import sys
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from omnitok import inert_pickle
from omnitok.errors import CheckpointError
from omnitok.hub.released import pickles, torch_files
from omnitok.hub.released.reader import read_released_checkpoint

REFERENCE = Path(__file__).resolve().parents[3] / "../shared/reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference files are not here")


def lightning_payload() -> dict[str, object]:
    """What a Lightning 1.5 checkpoint holds, with objects of a class that nobody can import afterwards."""
    module = types.ModuleType("vanished_trainer")

    class Callback:
        def __init__(self) -> None:
            self.monitor = "val/loss"

        def __setstate__(self, state: object) -> None:
            raise AssertionError("code of the file's classes must not run")

    class AttributeDict(dict):  # type: ignore[type-arg]
        pass

    for cls in (Callback, AttributeDict):
        cls.__module__, cls.__qualname__ = "vanished_trainer", cls.__name__
        setattr(module, cls.__name__, cls)
    sys.modules["vanished_trainer"] = module
    shared = torch.arange(12.0)
    state_dict = OrderedDict(
        [
            ("encoder.weight", torch.arange(6.0).reshape(2, 3)),
            ("encoder.transposed", torch.arange(6.0).reshape(2, 3).t()),
            ("encoder.half", torch.ones(3, dtype=torch.float16)),
            ("encoder.bfloat", torch.full((2,), 0.5, dtype=torch.bfloat16)),
            ("codebook.count", torch.tensor(7)),
            ("codebook.flag", torch.tensor([True, False])),
            ("empty", torch.empty(0, 4)),
            ("tied.a", shared[2:8]),
            ("tied.b", shared.view(3, 4)),
            ("parameter", torch.nn.Parameter(torch.ones(2))),
        ]
    )
    state_dict._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as Module.state_dict() has it
    return {
        "epoch": 3,
        "state_dict": state_dict,
        "callbacks": {Callback: {"best": Callback()}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(1000)}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
        "loops": AttributeDict(a=1),
        "seen": {1, 2},
        "hyper_parameters": AttributeDict(
            args=argparse.Namespace(
                patch_size=8, ff_mult=4.0, downsample=[4, 8, 8], use_vae=False, name=None, odd=Callback()
            ),
            top_level="kept",
        ),
    }


@pytest.fixture
def payload():
    yield lightning_payload()
    sys.modules.pop("vanished_trainer", None)


@pytest.fixture
def checkpoint(payload: dict[str, object], tmp_path: Path) -> Path:
    path = tmp_path / "released.ckpt"
    torch.save(payload, path)
    del sys.modules["vanished_trainer"]
    return path


# ----------------------------------------------------------------------------------------------------- good files


def test_lightning_checkpoint(payload: dict[str, object], checkpoint: Path):
    read = read_released_checkpoint(checkpoint)
    expected = payload["state_dict"]
    assert isinstance(expected, OrderedDict)
    assert list(read.state_dict) == list(expected)
    for name, tensor in expected.items():
        assert read.state_dict[name].dtype == tensor.dtype
        assert torch.equal(read.state_dict[name], tensor), name
    assert read.state_dict["tied.a"].data_ptr() - read.state_dict["tied.b"].data_ptr() == 8
    assert read.hyper_parameters == {
        "patch_size": 8,
        "ff_mult": 4.0,
        "downsample": [4, 8, 8],
        "use_vae": False,
        "name": None,
        "top_level": "kept",
    }
    assert read.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("flags", [{"a": 1, "b": (2, {"c": [3]})}, argparse.Namespace(a=1, b=(2, {"c": [3]}))])
def test_protocols_and_forms_of_flags(tmp_path: Path, protocol: int, flags: object):
    path = tmp_path / "x.ckpt"
    weight = torch.randn(3, 4)
    torch.save({"state_dict": {"w": weight}, "hyper_parameters": flags}, path, pickle_protocol=protocol)
    read = read_released_checkpoint(path)
    assert torch.equal(read.state_dict["w"], weight)
    assert read.hyper_parameters == {"a": 1, "b": (2, {"c": [3]})}


def test_diffusion_checkpoint_prefers_the_averaged_weights(tmp_path: Path):
    path = tmp_path / "dit.pt"
    torch.save(
        {
            "model": {"w": torch.zeros(2)},
            "ema": {"w": torch.ones(2)},
            "opt": {"state": {}},
            "args": argparse.Namespace(num_classes=10),
        },
        path,
    )
    read = read_released_checkpoint(path)
    assert torch.equal(read.state_dict["w"], torch.ones(2))
    assert read.hyper_parameters == {"num_classes": 10}


def test_safetensors(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    weight = torch.randn(2, 3)
    save_file(
        {"state_dict.a.b": weight, "image.input": torch.zeros(1)},
        path,
        metadata={"hyper_parameters": json.dumps({"n_codes": 128, "downsample": [4, 8, 8]})},
    )
    read = read_released_checkpoint(path)
    assert list(read.state_dict) == ["a.b"]
    assert torch.equal(read.state_dict["a.b"], weight)
    assert read.hyper_parameters == {"n_codes": 128, "downsample": [4, 8, 8]}


@pytest.mark.parametrize("protocol", [2, 4])
def test_files_older_than_torch_1_6(payload: dict[str, object], tmp_path: Path, protocol: int):
    path = tmp_path / "old.ckpt"
    torch.save(payload, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    read = read_released_checkpoint(path)
    expected = payload["state_dict"]
    assert isinstance(expected, OrderedDict)
    assert list(read.state_dict) == list(expected)
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in expected.items())
    assert read.hyper_parameters["downsample"] == [4, 8, 8]


def test_files_without_flags(tmp_path: Path):
    weights = {"a.weight": torch.randn(2, 3), "b": torch.randn(1)}
    for name, payload in {"bare": weights, "model": {"model": weights}, "state_dict": {"state_dict": weights}}.items():
        torch.save(payload, tmp_path / name)
    save_file(weights, tmp_path / "plain")
    save_file({f"state_dict.{name}": tensor for name, tensor in weights.items()}, tmp_path / "ours")
    for name in ("bare", "model", "state_dict", "plain", "ours"):
        read = read_released_checkpoint(tmp_path / name)
        assert read.hyper_parameters == {}
        assert {key: tensor.tolist() for key, tensor in read.state_dict.items()} == {
            key: tensor.tolist() for key, tensor in weights.items()
        }, name


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Sequential(torch.nn.BatchNorm2d(2)))
    torch.jit.save(torch.jit.trace(model.eval(), torch.zeros(1, 1, 4, 4), check_trace=False), tmp_path / "x.jit")
    read = read_released_checkpoint(tmp_path / "x.jit")
    assert {name: tensor.tolist() for name, tensor in read.state_dict.items()} == {
        name: tensor.tolist() for name, tensor in model.state_dict().items()
    }


def test_only_the_wanted_storages_are_read(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    names: list[str] = []
    read = zipfile.ZipFile.read

    def noting_read(self: zipfile.ZipFile, record: str | zipfile.ZipInfo, pwd: bytes | None = None) -> bytes:
        data = read(self, record, pwd)
        names.append(record if isinstance(record, str) else record.filename)
        assert len(data) != 4000, "the optimizer's moments were read"
        return data

    monkeypatch.setattr(zipfile.ZipFile, "read", noting_read)
    read_released_checkpoint(checkpoint)
    assert len(names) == len(set(names))


@needs_reference
def test_reference_checkpoint_holds_the_weights_of_its_safetensors():
    read = read_released_checkpoint(REFERENCE / "vqvae_lightning.ckpt")
    plain = read_released_checkpoint(REFERENCE / "vqvae.safetensors")
    assert read.hyper_parameters == plain.hyper_parameters
    for name, tensor in plain.state_dict.items():
        assert torch.equal(read.state_dict[name], tensor), name
    aside = {name.split(".")[0] for name in set(read.state_dict) - set(plain.state_dict)}
    assert aside == {"image_discriminator", "video_discriminator", "perceptual_model"}
    file = load_file(REFERENCE / "vqvae.safetensors")
    assert {f"state_dict.{name}" for name in plain.state_dict} == {n for n in file if n.startswith("state_dict.")}


# ----------------------------------------------------------------------------------------------------- evil files


def write_archive(path: Path, program: bytes, records: dict[str, bytes] | None = None) -> Path:
    """A checkpoint with a pickle written by hand."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", program)
        for name, data in (records or {}).items():
            archive.writestr(f"x/{name}", data)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def touching_programs(marker: Path) -> dict[str, bytes]:
    """Pickles that create `marker` when run by `pickle`, and give {}; by the instruction or the chain they use."""
    shell = text(f"touch '{marker}'") + b"\x85R0}."  # call what is on the stack, drop the result, push a dict
    command = text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    run = command + b"\x85R0}."
    inner = b"cbuiltins\nexec\n" + command + b"\x85R."
    return {
        "os.system": b"cos\nsystem\n" + shell,
        "builtins.exec": b"cbuiltins\nexec\n" + run,
        "builtins.eval": b"cbuiltins\neval\n" + text(f"open({str(marker)!r}, 'w').close()") + b"\x85R0}.",
        "old name of builtins": b"c__builtin__\nexec\n" + run,
        "stack global": b"\x80\x04" + text("builtins") + text("exec") + b"\x93" + run,
        "inst": b"(" + command + b"ibuiltins\nexec\n0}.",
        # tuple(map(exec, [command])), each class called in its own way
        "obj": b"(cbuiltins\ntuple\n(cbuiltins\nmap\ncbuiltins\nexec\n(" + command + b"loo0}.",
        "newobj": b"\x80\x02cbuiltins\ntuple\ncbuiltins\nmap\ncbuiltins\nexec\n(" + command + b"l\x86\x81\x85\x810}.",
        "newobj_ex": b"\x80\x04cbuiltins\ntuple\ncbuiltins\nmap\ncbuiltins\nexec\n("
        + command
        + b"l\x86}\x92\x85}\x920}.",
        "getattr chain": b"cbuiltins\ngetattr\ncbuiltins\n__import__\n"
        + text("os")
        + b"\x85R"
        + text("system")
        + b"\x86R"
        + shell,
        "dotted name": b"\x80\x04" + text("pathlib") + text("os.system") + b"\x93" + shell,
        "through torch": b"\x80\x04" + text("torch.serialization") + text("os.system") + b"\x93" + shell,
        "through torch.hub": b"\x80\x04"
        + text("torch.hub")
        + text("sys.modules.__class__")
        + b"\x930"
        + text("torch.hub")
        + text("os.system")
        + b"\x93"
        + shell,
        "pickle in pickle": b"cpickle\nloads\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R0}.",
        "build calls __setstate__": b"ctypes\nSimpleNamespace\n)R}"
        + text("__setstate__")
        + b"cbuiltins\nexec\nsb"
        + command
        + b"b0}.",
        "set item": b"cbuiltins\nglobals\n)R" + text("_unused") + b"cbuiltins\nexec\n" + command + b"\x85Rs0}.",
        "in nested tuples": b"cbuiltins\nexec\n" + command + b"\x85R\x85\x85\x850}.",
    }


@pytest.mark.parametrize("kind", sorted(touching_programs(Path("marker"))))
def test_no_instruction_runs_code(kind: str, tmp_path: Path):
    marker = tmp_path / "marker"
    program = touching_programs(marker)[kind]
    good = {"state_dict": {"w": None}, "hyper_parameters": {}}
    pickled_good = pickle.dumps(good, 2)[2:-1]  # without PROTO and STOP
    path = write_archive(tmp_path / "evil.ckpt", program[:-2] + pickled_good + b".")
    with pytest.raises(CheckpointError, match=r"evil\.ckpt: "):
        read_released_checkpoint(path)
    assert not marker.exists()
    assert pickle.loads(program) == {}
    assert marker.exists()  # in `pickle` the same program does its work: this test can fail


class Touch:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "aside", "key", "hooks"])
def test_code_in_a_real_checkpoint_stays_where_it_is(place: str, tmp_path: Path):
    marker = tmp_path / "marker"
    weight = torch.ones(2)
    payload: dict[object, object] = {
        "state_dict": {"w": weight},
        "hyper_parameters": argparse.Namespace(a=1),
    }
    if place == "hyper_parameters":
        payload["hyper_parameters"] = argparse.Namespace(a=1, b=[(Touch(marker),)])
    elif place == "state_dict":
        payload["state_dict"] = {"w": weight, "evil": Touch(marker)}
    elif place == "aside":
        payload["callbacks"] = [({"x": (Touch(marker),)},)]
    elif place == "key":
        payload[Touch(marker)] = 1
    else:
        weight.requires_grad_()
        weight._backward_hooks = OrderedDict(x=Touch(marker))
    path = tmp_path / "x.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that hooks are not kept
        torch.save(payload, path)
    if place == "state_dict":
        with pytest.raises(CheckpointError, match=r"the weight 'evil' is an object of '\w+\.mkdir'"):
            read_released_checkpoint(path)
    else:
        read = read_released_checkpoint(path)
        assert torch.equal(read.state_dict["w"], torch.ones(2))
        assert read.hyper_parameters["a"] == 1
    assert not marker.exists()


def storage(key: str = "0", numel: int = 4, kind: str = "ctorch\nFloatStorage\n") -> bytes:
    number = b"\x8a\x08" + struct.pack("<q", numel)
    return b"(" + text("storage") + kind.encode() + text(key) + text("cpu") + number + b"tQ"


def checkpoint_with_tensor(path: Path, weight: bytes, data: bytes = bytes(16)) -> Path:
    program = b"\x80\x02}(" + text("hyper_parameters") + b"}" + text("state_dict") + b"}" + text("w") + weight + b"su."
    return write_archive(path, program, {"data/0": data})


def rebuilt(size: object, stride: object, offset: object = 0, of: bytes | None = None) -> bytes:
    numbers = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, size, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (of or storage()) + numbers + b"\x89NtR"


def test_hand_written_tensor_is_read(tmp_path: Path):
    data = struct.pack("<4f", 1, 2, 3, 4)
    read = read_released_checkpoint(checkpoint_with_tensor(tmp_path / "x.ckpt", rebuilt((2, 2), (1, 2)), data))
    assert torch.equal(read.state_dict["w"], torch.tensor([[1.0, 3.0], [2.0, 4.0]]))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (rebuilt((5,), (1,)), "does not fit"),
        (rebuilt((2, 2), (3, 1)), "does not fit"),
        (rebuilt((4,), (1,), offset=1), "does not fit"),
        (rebuilt((2**40, 2**40), (0, 0)), "does not fit"),  # an expanded view would be a bomb when copied
        (rebuilt((4,), (1,), of=storage(numel=2**40)), "has 16 bytes, the pickle claims"),
        (rebuilt((2,), (1,), of=storage(numel=2)), "has 16 bytes, the pickle claims 8"),
        (rebuilt((4,), (1,), of=storage("../data.pkl")), "is missing"),
        (rebuilt((4,), (1,), of=storage(kind="cevil\nStorage\n")), "object of 'evil.Storage'"),
        (rebuilt((4,), (-1,)), "corrupt"),
        (rebuilt((4,), (1,), offset=-1), "corrupt"),
        (rebuilt((4, 1), (1,)), "corrupt"),
        (rebuilt("ab", (1,)), "corrupt"),
        (rebuilt((1,) * 17, (1,) * 17), "corrupt"),
        (rebuilt((True,), (1,)), "corrupt"),
    ],
)
def test_claims_of_tensors_are_checked(weight: bytes, message: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=message):
        read_released_checkpoint(checkpoint_with_tensor(tmp_path / "x.ckpt", weight))


def old_checkpoint(path: Path) -> tuple[Path, int]:
    """A file older than torch 1.6 with one weight of four numbers, and where the storage begins."""
    payload = {"state_dict": {"w": torch.arange(4.0)}, "hyper_parameters": {}}
    torch.save(payload, path, _use_new_zipfile_serialization=False)
    return path, path.stat().st_size - 8 - 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, at: data[:-1], "has 4 elements with 15 bytes to the end of the file, the pickle claims 4"),
        (lambda data, at: data[:at], "has 0 elements with 0 bytes to the end"),
        (lambda data, at: data[:at] + struct.pack("<q", 2**40) + data[at + 8 :], "has 1099511627776 elements"),
        (lambda data, at: data[:at] + struct.pack("<q", -1) + data[at + 8 :], "the pickle claims 4 elements"),
        (lambda data, at: data[: at - 9], "corrupt or truncated"),
        (lambda data, at: data[:15] + b"\x80\x02K\x01." + data[15:], "unknown version of torch"),
        (lambda data, at: data.replace(b"\x88X\n", b"\x89X\n", 1), "not little-endian"),
        (lambda data, at: data.replace(b"FloatStorage", b"EvilsStorage"), "storage of unknown type"),
        (lambda data, at: data[:15] * 3, "corrupt|unknown version"),
    ],
)
def test_claims_of_old_files_are_checked(change: Callable[[bytes, int], bytes], message: str, tmp_path: Path):
    path, at = old_checkpoint(tmp_path / "old.ckpt")
    assert torch.equal(read_released_checkpoint(path).state_dict["w"], torch.arange(4.0))
    path.write_bytes(change(path.read_bytes(), at))
    with pytest.raises(CheckpointError, match=message):
        read_released_checkpoint(path)


def test_old_files_run_no_code(tmp_path: Path):
    marker = tmp_path / "marker"
    path = tmp_path / "old.ckpt"
    payload = {"state_dict": {"w": torch.ones(2)}, "callbacks": {"x": Touch(marker)}}
    torch.save(payload, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_released_checkpoint(path).state_dict["w"], torch.ones(2))
    evil = b"cos\nsystem\n" + text(f"touch '{marker}'") + b"\x85R."
    path.write_bytes(path.read_bytes()[:15] + evil)
    with pytest.raises(CheckpointError):
        read_released_checkpoint(path)
    assert not marker.exists()


def test_modules_of_torchscript_that_repeat_one_another_end(tmp_path: Path):
    attributes = b"".join(text(str(i)) + b"h\x00" for i in range(60))
    program = b"c__torch__\nA\n)\x81q\x00}(" + attributes + b"ub."  # a module that holds itself sixty times
    with pytest.raises(CheckpointError, match="more than 100000 attributes"):
        read_released_checkpoint(write_archive(tmp_path / "x.jit", program))


def test_compressed_records_are_refused(tmp_path: Path):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**7))
    with pytest.raises(CheckpointError, match="is compressed"):
        read_released_checkpoint(path)


def test_overlapping_records_are_refused(tmp_path: Path):
    path = write_archive(tmp_path / "x.ckpt", b"}.", {f"data/{i}": bytes(1000) for i in range(2)})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # the last entry of the directory
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"claim \d+ bytes in a file of \d+"):
        read_released_checkpoint(path)


@pytest.mark.parametrize(
    "program",
    [
        b"]" * 100_000 + b"a" * 99_999 + b".",  # lists in lists
        b")" + b"\x85" * 100_000 + b".",  # tuples in tuples
        b")" + b"\x85" * 100_000 + b"N\x86}\x94" + b"h\x00h\x00s.",
        b"}(" + b")" + b"\x85" * 100_000 + b"Nd.",  # ... as a key
        b"}" + b")" + b"2\x86" * 100 + b"Ns.",  # a key whose hash takes 2^100 steps
        b"cx\ny\n" + b"2b" * 50_000 + b".",  # an object that holds itself
        b"\x80\x04" + b")" + b"2\x86" * 100 + b"2\x93.",  # a name whose text has 2^100 characters
        b"(" * 100_000 + b".",
        b"N0" * 10 + b"0.",
        b"h\x05.",
        b"\x8a\xff.",
        b"X\xff\xff\xff\xff.",
        b"\x82\x01.",  # the extension registry
        b"\x97.",  # out-of-band buffers
        b"Pname\n.",
        b"}r\xff\xff\xff\xff.",  # a memo of 2^32 places
        b"\x96" + b"\xff" * 7 + b"\x00.",  # bytes that are allocated before they are read
        b"",
        b"\x80",
        b"N",
    ],
)
def test_senseless_pickles(program: bytes, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"x\.ckpt: ") as caught:
        read_released_checkpoint(write_archive(tmp_path / "x.ckpt", program))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["torch._utils _rebuild_tensor_v2", "collections OrderedDict", "torch Size", "x Y"])
def test_what_stands_for_functions_keeps_its_code(name: str, tmp_path: Path):
    """BUILD may set attributes, such as a function's defaults, of whatever lies on the stack."""
    module, function = name.split()
    program = f"c{module}\n{function}\n(N}}(X\x0c\x00\x00\x00__defaults__)dtb.".encode()
    with pytest.raises(CheckpointError):
        read_released_checkpoint(write_archive(tmp_path / "x.ckpt", program))
    assert pickles._tensor_record.__defaults__ == (None,)


def test_flags_that_repeat_one_another_end(tmp_path: Path):
    flags: list[object] = [1]
    for _ in range(14):
        flags = [flags] * 10
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": {"a": flags}}, path)
    with pytest.raises(CheckpointError, match="more than"):
        read_released_checkpoint(path)


def test_long_pickles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_archive(tmp_path / "x.ckpt", b"N0" * 600 + b"}.")
    monkeypatch.setattr(inert_pickle, "MAX_INSTRUCTIONS", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 instructions"):
        read_released_checkpoint(path)
    monkeypatch.setattr(torch_files, "MAX_PICKLE_BYTES", 1000)
    with pytest.raises(CheckpointError, match="1202 bytes, accepted are 1000"):
        read_released_checkpoint(path)


# ----------------------------------------------------------------------------------------------- the other files


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (picture("JPEG"), "a JPEG image"),
        (picture("PNG"), "a PNG image"),
        (b"Dear reader,\nthis is no checkpoint.\n", "a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!doctype html><html>", "an HTML or XML page"),
        (pickle.dumps({"state_dict": {}}), "a bare pickle"),
        (bytes(range(129, 256)), "an unknown format"),
        (b"PK\x03\x04 and then nothing", "(?i)not a zip file"),
        (b"\x00" * 8 + b"{", "deserializing header"),
    ],
)
def test_foreign_files(content: bytes, found: str, tmp_path: Path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=found) as caught:
        read_released_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_released_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="is a directory"):
        read_released_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"epoch": 1, "weights": {}}, r"no weights under 'state_dict' \(its keys: 'epoch', 'weights'\)"),
        ({"state_dict": {}, "hyper_parameters": {}}, "no weights"),
        ({"state_dict": [torch.ones(1)], "hyper_parameters": {}}, "no weights"),
        ({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": 3}, "the flags are a value of 'int'"),
        ({"state_dict": {"w": 3.0}, "hyper_parameters": {}}, "the weight 'w' is a value of 'float'"),
        ({"state_dict": {3: torch.ones(1)}, "hyper_parameters": {}}, "the weight"),
        ([torch.ones(1)], "a value of 'list' instead of a dict"),
        (argparse.Namespace(a=1), "an object of 'argparse.Namespace' instead of a dict"),
    ],
)
def test_checkpoints_of_something_else(payload: object, message: str, tmp_path: Path):
    path = tmp_path / "x.ckpt"
    torch.save(payload, path)
    with pytest.raises(CheckpointError, match=message):
        read_released_checkpoint(path)


def test_zip_of_something_else(tmp_path: Path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    with pytest.raises(CheckpointError, match=r"0 records 'data\.pkl'"):
        read_released_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        (None, {}, "without weights"),
        ({"hyper_parameters": "{not json"}, {"state_dict.a": torch.ones(1)}, "is not JSON"),
        ({"hyper_parameters": "[" * 100_000}, {"state_dict.a": torch.ones(1)}, "is not JSON"),
        ({"hyper_parameters": "[1]"}, {"state_dict.a": torch.ones(1)}, "instead of a dict"),
        ({"hyper_parameters": "{}"}, {"a": torch.ones(1)}, r"without weights under 'state_dict\.'"),
    ],
)
def test_safetensors_of_something_else(
    metadata: dict[str, str] | None, tensors: dict[str, torch.Tensor], message: str, tmp_path: Path
):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        read_released_checkpoint(path)


def test_truncated_at_any_length(checkpoint: Path, tmp_path: Path):
    whole = checkpoint.read_bytes()
    cut = tmp_path / "cut.ckpt"
    for length in [1, 4, 40, *range(100, len(whole), 997), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.ckpt: "):
            read_released_checkpoint(cut)


def test_truncated_safetensors(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({"state_dict.a": torch.ones(100)}, path, metadata={"hyper_parameters": "{}"})
    whole = path.read_bytes()
    for length in [9, 20, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            read_released_checkpoint(path)


def test_flipped_bit_in_a_weight_is_noticed(checkpoint: Path):
    data = bytearray(checkpoint.read_bytes())
    at = data.index(torch.arange(6.0).numpy().tobytes())
    data[at + 5] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(CheckpointError, match="CRC"):
        read_released_checkpoint(checkpoint)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_pickles_give_weights_or_a_checkpoint_error(checkpoint: Path, changes: list[tuple[float, int]]):
    with zipfile.ZipFile(checkpoint) as archive:
        root = archive.namelist()[0].split("/")[0]
        records = {name.removeprefix(f"{root}/"): archive.read(name) for name in archive.namelist()}
    program = bytearray(records.pop("data.pkl"))
    for where, value in changes:
        program[int(where * len(program))] = value
    path = write_archive(checkpoint.with_name("changed.ckpt"), bytes(program), records)
    try:
        read = read_released_checkpoint(path)
    except CheckpointError:
        return
    assert read.state_dict


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 0.999), value=st.integers(0, 255))
def test_changed_files_give_weights_or_a_checkpoint_error(checkpoint: Path, where: float, value: int):
    data = bytearray(checkpoint.read_bytes())
    data[int(where * len(data))] = value
    path = checkpoint.with_name("changed.ckpt")
    path.write_bytes(data)
    try:
        read = read_released_checkpoint(path)
    except CheckpointError:
        return
    assert read.state_dict


@pytest.mark.parametrize("program", [b"S'\\d'\n.", b"S'\\400'\n.", b"c\\d\n\\d\n."])
def test_escapes_that_python_does_not_know_pass_in_silence(tmp_path: Path, program: bytes):
    with pytest.warns(DeprecationWarning, match="escape sequence"):  # the standard library's, on these bytes
        list(pickletools.genops(program))
    path = write_archive(tmp_path / "x.ckpt", program)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(CheckpointError):
            read_released_checkpoint(path)
    assert told == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codes=st.lists(
        st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes]) | st.binary(max_size=4), max_size=40
    )
)
def test_any_program_is_harmless(tmp_path: Path, codes: list[bytes]):
    path = write_archive(tmp_path / "x.ckpt", b"".join(codes) + b".")
    with pytest.raises(CheckpointError):
        read_released_checkpoint(path)
