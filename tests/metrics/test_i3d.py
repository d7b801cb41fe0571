import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from omnitok.errors import CheckpointError, MissingWeightsError
from omnitok.hub.weights import WEIGHTS, file_sha256
from omnitok.losses.frozen_network import load_exactly
from omnitok.metrics import I3D, load_i3d, load_i3d_torchscript
from omnitok.metrics.i3d import prepare_videos


def test_clips_shorter_than_nine_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 9 frames, but got 8"):
        I3D()(torch.zeros(1, 3, 8, 32, 32))
    assert prepare_videos(torch.zeros(1, 3, 9, 32, 32)).shape == (1, 3, 9, 224, 224)


def test_bad_pixels_are_refused() -> None:
    for clip, message in (
        (torch.zeros(3, 9, 32, 32), r"\(b, 3, T, H, W\)"),
        (torch.zeros(1, 9, 3, 32, 32), r"\(b, 3, T, H, W\)"),
        (torch.full((1, 3, 9, 32, 32), torch.nan), "NaN"),
        (torch.full((1, 3, 9, 32, 32), 200.0), "values up to 200"),
        (torch.zeros(1, 3, 9, 32, 32, dtype=torch.int64), "int64"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_videos(clip)


def test_frames_are_squashed_bilinearly_without_antialias() -> None:
    g = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (2, 3, 9, 40, 300), generator=g, dtype=torch.uint8)
    prepared = prepare_videos(clip)
    assert torch.equal(prepared, prepare_videos(clip.float() / 127.5 - 1))
    resized = F.interpolate(clip[1, :, 4].float()[None], size=(224, 224), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(prepared[1, :, 4], 2 * resized / 255 - 1, rtol=0, atol=1e-5)


def test_unloaded_weights_answer_nan() -> None:
    assert I3D()(torch.zeros(1, 3, 9, 224, 224)).isnan().all()


def test_weights_must_fit_name_by_name() -> None:
    state = I3D().state_dict()
    del state["logits.conv3d.bias"]
    with pytest.raises(CheckpointError, match=r"I3D: .* missing \['logits.conv3d.bias'\]"):
        load_exactly(I3D(), state, "I3D")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"i3d_pretrained_400\.pt"):
        load_i3d(tmp_path)
    (tmp_path / "i3d_torchscript.pt").write_bytes(b"a program nobody published")
    with pytest.raises(MissingWeightsError, match="bec6519f"):
        load_i3d_torchscript(tmp_path)


class Script(torch.nn.Module):
    """The calling convention of StyleGAN-V's file."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert return_features
        assert not rescale
        assert not resize
        return x.mean([2, 3, 4])


def test_torchscript_gets_prepared_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is; the published file still is a TorchScript
        torch.jit.script(Script()).save(path)
        known = replace(WEIGHTS["i3d_torchscript"], sha256=file_sha256(path))
        monkeypatch.setitem(WEIGHTS, "i3d_torchscript", known)
        network = load_i3d_torchscript(tmp_path)
    clip = torch.full((2, 3, 9, 16, 16), 255, dtype=torch.uint8)
    torch.testing.assert_close(network(clip), torch.ones(2, 3))
