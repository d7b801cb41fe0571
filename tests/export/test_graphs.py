import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.small import TINY
from omnitok.errors import OmnitokError
from omnitok.export import files
from omnitok.export.files import METADATA, export_part
from omnitok.export.graphs import Shape
from omnitok.models.bottlenecks import KLConfig
from omnitok.models.tokenizer import OmniTokenizer


def tiny(kind: str) -> OmniTokenizer:
    torch.manual_seed(0)
    config = TINY if kind == "vq" else replace(TINY, bottleneck=KLConfig(latent_channels=4))
    return OmniTokenizer.from_config(config).eval()


def test_a_vae_of_videos(tmp_path: Path) -> None:
    tokenizer, shape = tiny("vae"), Shape(5, (12, 16))
    for part in ("encoder", "decoder"):
        export_part(tokenizer, part, shape, tmp_path / f"{part}.pt2")
    notes = {METADATA: ""}
    encoder = torch.export.load(tmp_path / "encoder.pt2", extra_files=notes).module()
    decoder = torch.export.load(tmp_path / "decoder.pt2").module()
    pixels = torch.rand(4, 3, 5, 12, 16) * 2 - 1
    with torch.no_grad():
        latents = encoder(pixels)
        torch.testing.assert_close(latents, tokenizer.encode(pixels).latents, atol=1e-5, rtol=0)
        torch.testing.assert_close(decoder(latents), tokenizer.decode(latents), atol=1e-5, rtol=0)
        with pytest.raises((AssertionError, RuntimeError)):
            encoder(pixels[..., :12])
    note = json.loads(notes[METADATA])
    assert note["input_shape"] == [None, 3, 5, 12, 16]
    assert note["output_shape"] == [None, 4, *latents.shape[2:]]
    assert note["fingerprint"] == tokenizer.fingerprint


@pytest.mark.parametrize(
    "shape, said", [(Shape(2, (8, 8)), "frames must"), (Shape(1, (12, 17)), "size must be multiples of 4")]
)
def test_shapes_that_are_no_whole_patches(shape: Shape, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        export_part(tiny("vq"), "encoder", shape, tmp_path / "encoder.pt2")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_is_wrong_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(files.EncoderGraph):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels.flip(-1))

    monkeypatch.setattr(files, "EncoderGraph", Wrong)
    with pytest.raises(OmnitokError, match="codes are others than the tokenizer's"):
        export_part(tiny("vq"), "encoder", Shape(1, (8, 8)), tmp_path / "encoder.pt2")
    assert not list(tmp_path.iterdir())
