"""Streams as graphs: piece by piece they give what the whole video gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.small import TINY
from omnitok.errors import OmnitokError
from omnitok.export.files import export_graph
from omnitok.export.graphs import Graph, Tensors
from omnitok.export.onnx_file import load_onnx
from omnitok.export.streams import stream_graphs
from omnitok.models.bottlenecks import KLConfig
from omnitok.models.tokenizer import OmniTokenizer


@pytest.mark.parametrize("suffix, kind", [(".onnx", "vq"), pytest.param(".pt2", "vae", marks=pytest.mark.slow)])
def test_steps_are_the_whole_video(suffix: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    bottleneck = TINY.bottleneck if kind == "vq" else KLConfig(latent_channels=4)
    tokenizer = OmniTokenizer.from_config(replace(TINY, bottleneck=bottleneck, temporal_window=3)).eval()
    run, keep, axes = {}, 2, {}
    for graph in stream_graphs(tokenizer, (8, 12)):
        path = tmp_path / f"{graph.name}{suffix}"
        assert export_graph(graph, path).max_error < 1e-5
        assert graph.note["keep"] == keep
        axes[graph.name] = [graph.note["axes"].get(name.removeprefix("new_")) for name in graph.outputs[1:]]
        run[graph.name] = load_onnx(path) if suffix == ".onnx" else torch.export.load(path).module()

    def stream(part: str, pieces: list[torch.Tensor], dim: int) -> torch.Tensor:
        results, past = [], ()
        for i, piece in enumerate(pieces):
            result, *new = run[f"{part}_{'step' if i else 'first'}"](piece, *past)
            sides = zip(new, axes[f"{part}_step"], strict=True)
            past = [
                x if axis is None else x.narrow(axis, max(0, x.shape[axis] - keep), min(keep, x.shape[axis]))
                for x, axis in sides
            ]
            results.append(result)
        return torch.cat(results, dim)

    video = torch.rand(1, 3, 1 + 2 * 6, 8, 12) * 2 - 1
    with torch.no_grad():
        wanted = tokenizer.encode(video).tokens
        axis = 1 if kind == "vq" else 2
        tokens = stream("encoder", [video[:, :, :1], *video[:, :, 1:].split(2, dim=2)], axis)
        torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=0)
        decode = tokenizer.decode_codes if kind == "vq" else tokenizer.decode
        pixels = stream("decoder", [*wanted.split(1, dim=axis)], 2)
        torch.testing.assert_close(pixels, decode(wanted), atol=1e-5, rtol=0)


def test_what_is_remembered_is_compared_as_a_share_of_its_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = stream_graphs(OmniTokenizer.from_config(TINY).eval(), (8, 8))[2]  # pixels of a first latent frame

    def off(first: float, others: float) -> Graph:
        def eager(codes: torch.Tensor) -> Tensors:
            pixels, *kept = graph.eager(codes)
            largest = [max(1.0, float(each.abs().max())) for each in kept]
            assert max(largest) > 1.5
            return pixels + first, *(each + others * size for each, size in zip(kept, largest, strict=True))

        return replace(graph, eager=eager)

    assert export_graph(off(0, 9e-5), tmp_path / "a.pt2").max_error == pytest.approx(9e-5, rel=0.05)
    with pytest.raises(OmnitokError, match=r"differs from the library by 0\.00011"):
        export_graph(off(1.1e-4, 0), tmp_path / "b.pt2")


@pytest.mark.slow
def test_the_shipped_tokenizer_streams_in_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for graph in stream_graphs(OmniTokenizer.from_pretrained("omnitok-tiny-vq"), (64, 64)):
        export_graph(graph, tmp_path / f"{graph.name}.onnx")


def test_a_window_of_two_latent_frames(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for graph in stream_graphs(OmniTokenizer.from_config(replace(TINY, temporal_window=2)).eval(), (8, 8))[2:]:
        assert export_graph(graph, tmp_path / f"{graph.name}.pt2").max_error < 1e-5


def test_a_tokenizer_that_cannot_stream() -> None:
    tokenizer = OmniTokenizer.from_config(replace(TINY, temporal_convolution_layout="released", temporal_window=None))
    with pytest.raises(ValueError, match="stream needs a causal tokenizer"):
        stream_graphs(tokenizer, (8, 8))
    with pytest.raises(ValueError, match="stream needs a temporal_window of 2"):
        stream_graphs(OmniTokenizer.from_config(replace(TINY, temporal_window=1)), (8, 8))
    with pytest.raises(ValueError, match="size must be multiples of 4"):
        stream_graphs(tokenizer, (8, 9))
