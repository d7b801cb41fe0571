from pathlib import Path

import pytest
import torch

from omnitok.export.files import export_graph
from omnitok.export.generators import denoiser_graph, step_graph
from omnitok.export.onnx_file import load_onnx
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.language_model import LanguageModel


def test_steps_of_onnx_are_the_whole_sequence(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    config = LanguageModelConfig(
        codebook_size=16, latent_frames=1, latent_height=2, latent_width=3, width=16, depth=2, heads=2
    )
    model = LanguageModel(config).eval()
    export_graph(step_graph(model), tmp_path / "step.onnx")
    run, tokens = load_onnx(tmp_path / "step.onnx"), torch.randint(config.vocabulary, (4, 5))
    keys = values = torch.zeros_like(model.new_cache(4).keys)
    logits = []
    for i in range(tokens.shape[1]):
        step, keys, values = run(tokens[:, i : i + 1], torch.tensor([i]), keys, values)
        logits.append(step)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens), atol=1e-5, rtol=0)


def test_a_denoiser_of_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    config = DiffusionTransformerConfig(latent_channels=4, width=32, depth=2, heads=2, num_classes=3, temporal=True)
    model = DiffusionTransformer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    graph = denoiser_graph(model, (2, 4, 6))
    export_graph(graph, tmp_path / "denoiser.onnx")
    x, t, labels = torch.randn(5, 4, 2, 4, 6), torch.rand(5) * 999, torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        wanted = model(x, t, labels)
    torch.testing.assert_close(load_onnx(tmp_path / "denoiser.onnx")(x, t, labels)[0], wanted, atol=1e-5, rtol=0)
