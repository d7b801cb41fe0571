from pathlib import Path

import pytest
import torch

from omnitok.errors import MissingWeightsError
from omnitok.metrics import FIDInception, load_inception
from omnitok.metrics.inception import resize_bilinear_tf1


def test_tf1_resizing_reads_at_i_times_the_scale() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    # positions 0, 2/3, 4/3, 2, 8/3, 10/3; beyond the last pixel it repeats
    expected = torch.tensor([0, 2 / 3, 4 / 3, 2, 8 / 3, 3])
    torch.testing.assert_close(resize_bilinear_tf1(ramp, 4, 6)[0, 0, 0], expected)
    torch.testing.assert_close(resize_bilinear_tf1(ramp.transpose(2, 3), 6, 4)[0, 0, :, 1], expected)
    torch.testing.assert_close(resize_bilinear_tf1(ramp, 2, 2)[0, 0, 1], torch.tensor([0.0, 2]))  # no antialias
    assert torch.equal(resize_bilinear_tf1(ramp, 4, 4), ramp)


def test_uint8_and_float_pixels_agree() -> None:
    network = FIDInception()
    g = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 1:  # batch norm, and the bias that the unbiased logits leave out
            parameter.data.fill_(1)
        else:
            parameter.data = torch.randn(parameter.shape, generator=g) * (2 / parameter[0].numel()) ** 0.5
    pictures = torch.randint(0, 256, (1, 3, 80, 60), generator=g, dtype=torch.uint8)
    output = network(pictures)
    assert output.features.isfinite().all()
    floats = network(pictures.float() / 127.5 - 1)
    torch.testing.assert_close(floats.features, output.features, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output.logits_unbiased, output.features @ network.fc.weight.T)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'pytorch_fid' or 'tf1'"):
        FIDInception("bicubic")
    network = FIDInception()
    with pytest.raises(ValueError, match="values up to 255"):
        network(torch.full((1, 3, 64, 64), 255.0))
    with pytest.raises(ValueError, match=r"\(b, 3, H, W\)"):
        network(torch.zeros(1, 64, 64, 3))
    with pytest.raises(MissingWeightsError, match=r"pt_inception-2015-12-05-6726825d\.pth"):
        load_inception(weights_dir=tmp_path)
