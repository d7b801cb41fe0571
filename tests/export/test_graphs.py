import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.small import TINY
from omnitok.errors import MissingExtraError, OmnitokError
from omnitok.export import graphs
from omnitok.export.files import NOTE, export_graph
from omnitok.export.graphs import Shape, tokenizer_graphs
from omnitok.export.onnx_file import load_onnx, require_onnx
from omnitok.models.bottlenecks import FSQConfig, KLConfig
from omnitok.models.tokenizer import OmniTokenizer


def tiny(kind: str) -> OmniTokenizer:
    torch.manual_seed(0)
    bottleneck = {"vq": TINY.bottleneck, "vae": KLConfig(latent_channels=4), "fsq": FSQConfig(levels=(5, 4, 3))}[kind]
    return OmniTokenizer.from_config(replace(TINY, bottleneck=bottleneck)).eval()


def test_a_vae_of_videos(tmp_path: Path) -> None:
    tokenizer = tiny("vae")
    for graph in tokenizer_graphs(tokenizer, Shape(5, (12, 16))):
        export_graph(graph, tmp_path / f"{graph.name}.pt2")
    notes = {NOTE: ""}
    encoder = torch.export.load(tmp_path / "encoder.pt2", extra_files=notes).module()
    decoder = torch.export.load(tmp_path / "decoder.pt2").module()
    pixels = torch.rand(4, 3, 5, 12, 16) * 2 - 1
    with torch.no_grad():
        latents = encoder(pixels)
        torch.testing.assert_close(latents, tokenizer.encode(pixels).latents, atol=1e-5, rtol=0)
        torch.testing.assert_close(decoder(latents), tokenizer.decode(latents), atol=1e-5, rtol=0)
        with pytest.raises((AssertionError, RuntimeError)):
            encoder(pixels[..., :12])
    note = json.loads(notes[NOTE])
    assert note["input_shape"] == [None, 3, 5, 12, 16]
    assert note["output_shape"] == [None, 4, *latents.shape[2:]]
    assert note["fingerprint"] == tokenizer.fingerprint


@pytest.mark.parametrize("kind, frames", [("vae", 5), ("fsq", 1)])
def test_models_of_onnx(kind: str, frames: int, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    tokenizer = tiny(kind)
    tokenizer.limit_blocks([3.0] * sum(tokenizer.config.stack_depths))  # lengths limited and pixels bent, as shipped
    encoder, decoder = tokenizer_graphs(tokenizer, Shape(frames, (12, 16)))
    done = [export_graph(graph, tmp_path / f"{graph.name}.onnx") for graph in (encoder, decoder)]
    assert max(each.max_error for each in done) < 1e-5
    pixels = torch.rand(4, 3, 12, 16) * 2 - 1  # a batch not yet tried
    pixels = pixels if frames == 1 else pixels.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    with torch.no_grad():
        (tokens,) = load_onnx(tmp_path / "encoder.onnx")(pixels)
        torch.testing.assert_close(tokens, tokenizer.encode(pixels).tokens, atol=1e-5, rtol=0)
        (decoded,) = load_onnx(tmp_path / "decoder.onnx")(tokens)
        decode = tokenizer.decode_codes if tokenizer.is_discrete else tokenizer.decode
        torch.testing.assert_close(decoded, decode(tokens), atol=1e-5, rtol=0)
    model = onnx.load(tmp_path / "decoder.onnx")
    assert [each.name for each in model.graph.input] == ["codes" if tokenizer.is_discrete else "latents"]
    assert [each.name for each in model.graph.output] == ["pixels"]
    note = json.loads({entry.key: entry.value for entry in model.metadata_props}[NOTE])
    assert note["output_shape"] == [None, 3, *decoded.shape[2:]]


@pytest.mark.parametrize("suffix", [pytest.param(".pt2", marks=pytest.mark.slow), ".onnx"])
def test_images_of_any_size(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    config = replace(TINY, encoder_blocks="ws", window_size=4)
    tokenizer = OmniTokenizer.from_config(config).eval()
    for graph in tokenizer_graphs(tokenizer, Shape(1, None)):
        assert export_graph(graph, tmp_path / f"{graph.name}{suffix}").max_error < 1e-5
    if suffix == ".onnx":
        run = load_onnx(tmp_path / "encoder.onnx")
    else:
        loaded = torch.export.load(tmp_path / "encoder.pt2").module()
        run = lambda pixels: (loaded(pixels),)  # noqa: E731
    for batch, height, width in ((1, 20, 32), (3, 24, 48), (2, 36, 20)):  # sizes not yet tried
        pixels = torch.rand(batch, 3, height, width) * 2 - 1
        with torch.no_grad():
            assert torch.equal(run(pixels)[0], tokenizer.encode(pixels).codes)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_videos_of_any_size_and_length(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(replace(TINY, encoder_blocks="w", decoder_blocks="s", window_size=2)).eval()
    run = {}
    for graph in tokenizer_graphs(tokenizer, Shape(None, None)):
        path = tmp_path / f"{graph.name}{suffix}"
        assert export_graph(graph, path).max_error < 1e-5
        run[graph.name] = load_onnx(path) if suffix == ".onnx" else torch.export.load(path).module()
    for batch, frames, height, width in ((1, 5, 20, 12), (2, 11, 16, 24), (3, 21, 12, 12)):  # not yet tried
        pixels = torch.rand(batch, 3, frames, height, width) * 2 - 1
        with torch.no_grad():
            codes = tokenizer.encode(pixels).codes
            assert torch.equal(_one(run["encoder"](pixels)), codes)
            torch.testing.assert_close(_one(run["decoder"](codes)), tokenizer.decode_codes(codes), atol=1e-5, rtol=0)


def _one(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else result[0]


def test_the_extra_of_onnx_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime'.*pip install 'onnx onnxscript onnxruntime'"):
        require_onnx()


@pytest.mark.parametrize(
    "shape, said",
    [
        (Shape(2, (8, 8)), "frames must"),
        (Shape(1, (12, 17)), "size must be multiples of 4"),
        (Shape(4, None), "frames must"),
        (Shape(None, (12, 17)), "size must be multiples of 4"),
    ],
)
def test_shapes_that_are_no_whole_patches(shape: Shape, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tokenizer_graphs(tiny("vq"), shape)


def test_a_graph_that_is_wrong_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(graphs.EncoderGraph):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels.flip(-1))

    monkeypatch.setattr(graphs, "EncoderGraph", Wrong)
    encoder, _ = tokenizer_graphs(tiny("vq"), Shape(1, (8, 8)))
    with pytest.raises(OmnitokError, match="codes are others than the library's"):
        export_graph(encoder, tmp_path / "encoder.pt2")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_gives_nan_gets_no_name(tmp_path: Path) -> None:
    decoder = tokenizer_graphs(tiny("vae"), Shape(1, (8, 8)))[1]

    def eager(latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (decoder.eager(latents)[0] * torch.nan,)

    with pytest.raises(OmnitokError, match="differs from the library by nan"):
        export_graph(replace(decoder, eager=eager), tmp_path / "decoder.pt2")
    assert not list(tmp_path.iterdir())
