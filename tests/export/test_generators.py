from pathlib import Path

import pytest
import torch

from omnitok.export.files import export_graph
from omnitok.export.generators import conditions_for, denoiser_graph, generator_graph, masked_graph, step_graph
from omnitok.export.onnx_file import load_onnx
from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig
from omnitok.models.conditions import EmbeddingCondition, TextCondition, make_conditions
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.masked_model import MaskedModel


def test_steps_of_onnx_are_the_whole_sequence(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
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
    pytest.importorskip("onnxscript")
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


@pytest.mark.parametrize("patch", [1, 2])
def test_a_masked_step_of_a_model_that_reads_texts(tmp_path: Path, patch: int) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    sizes = {
        "codebook_size": 16,
        "latent_frames": 2,
        "latent_height": 2,
        "latent_width": 3,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "patch": patch,
    }
    model = MaskedModel(MaskedModelConfig(**sizes, condition=TextCondition(max_length=12, depth=1))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    graph = generator_graph(model, (2, 2, 3))
    assert graph.note["mask_id"] == model.config.mask_id
    assert export_graph(graph, tmp_path / "masked.onnx").max_error < 1e-4
    texts = torch.full((2, 12), -1)
    for row, text in zip(texts, ("a red square", "blue"), strict=True):
        row[: len(text)] = torch.tensor([*text.encode()])
    codes = torch.randint(16, (2, 2, 2, 3))
    tokens = model.ids(codes, None, codes < 9)
    with torch.no_grad():
        wanted = model(tokens, (2, 3), make_conditions(TextCondition(), ["a red square", "blue"]))
        assert (wanted - model(tokens, (2, 3), torch.full((2, 1), -1))).abs().max() > 0.01  # the text counts
    torch.testing.assert_close(load_onnx(tmp_path / "masked.onnx")(tokens, texts)[0], wanted, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="size asks for 18 codes, more than the context of 13 tokens"):
        masked_graph(model, (3, 2, 3))


def test_conditions_of_embeddings_and_models_without_any(tmp_path: Path) -> None:
    (padded,) = conditions_for(EmbeddingCondition(channels=4, max_length=6), 2)
    assert padded.shape == (2, 6, 4)
    assert padded[0].isnan().any(dim=1).tolist() == [False] * 4 + [True] * 2
    assert padded[1].isnan().all()
    torch.manual_seed(0)
    config = DiffusionTransformerConfig(latent_channels=4, width=32, depth=1, heads=2, num_classes=0)
    graph = generator_graph(DiffusionTransformer(config).eval(), (4, 4))
    assert graph.inputs == ("latents", "time")
    assert export_graph(graph, tmp_path / "denoiser.pt2").max_error == 0
