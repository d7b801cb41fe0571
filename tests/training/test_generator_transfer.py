"""Generators that start from trained ones: what is kept, how classes are found, what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.runs import assert_same_run
from helpers.training import built, resolved, train
from omnitok.errors import OmnitokError
from omnitok.hub.folder import load_generator_model, load_tokenizer, save_generator
from omnitok.models.code_sequence import MaskedModelConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.protocol import LatentStatistics
from omnitok.training.config import AnyGeneratorConfig, MaskedModelTrainConfig
from omnitok.training.settings import apply_settings
from omnitok.training.stopping import Limits

Configs = dict[str, AnyGeneratorConfig]


@pytest.fixture(params=["lm", "dit"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trained(generator_configs: Configs, kind: str, tmp_path: Path) -> str:
    """A model of the classes "a", "b" and "c", of another width than the configurations."""
    config = apply_settings(generator_configs[kind], ["model.width=48"])
    return str(train(config, tmp_path / "trained", limits=Limits(max_steps=2)).model)


def test_every_weight_is_kept_and_a_resumed_run_needs_no_source(
    generator_configs: Configs, kind: str, trained: str, tmp_path: Path
) -> None:
    config = replace(generator_configs[kind], init=trained)
    ready = resolved(config)
    assert ready.config.model.width == 48
    source = load_generator_model(trained).model.state_dict()
    for name, weight in built(config).model.state_dict().items():
        assert torch.equal(weight, source[name]), name
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", limits=Limits(max_steps=3))
    shutil.rmtree(trained)
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 6)


def test_classes_are_found_by_name_and_new_ones_begin_anew(
    generator_configs: Configs, kind: str, trained: str, labelled_media: Path, tmp_path: Path
) -> None:
    shutil.copytree(labelled_media / "images" / "a", tmp_path / "media" / "aa")  # before "b", so that numbers move
    shutil.copytree(labelled_media / "images" / "b", tmp_path / "media" / "b")
    data = replace(generator_configs[kind].data, images=(str(tmp_path / "media"),), videos=())
    config = replace(generator_configs[kind], init=trained, data=data)
    ready = resolved(config)
    assert ready.data.classes == ("aa", "b")
    told: list[str] = []
    model = built(config, told.append).model.eval()
    assert told == [f"{trained} does not know the classes aa: they begin anew"]
    source = load_generator_model(trained).model
    torch.manual_seed(1)
    if isinstance(model, LanguageModel):
        assert isinstance(source, LanguageModel)
        codes = torch.randint(0, 32, (2, 3))
        # Start, class ("b" or the null class), codes; ids of codes begin elsewhere.
        own = torch.cat([torch.tensor([[0, 2], [0, 3]]), codes + model.config.code_offset], dim=1)
        theirs = torch.cat([torch.tensor([[0, 2], [0, 4]]), codes + source.config.code_offset], dim=1)
        got = model(own, grid=(2, 2))[..., model.config.code_offset :]
        wanted = source(theirs, grid=(2, 2))[..., source.config.code_offset :]
    else:
        assert not isinstance(source, LanguageModel)
        x, t = torch.randn(2, source.config.latent_channels, 2, 2), torch.rand(2)
        got, wanted = model(x, t, torch.tensor([1, 2])), source(x, t, torch.tensor([1, 3]))
        assert wanted.abs().max() > 0
    assert torch.equal(got, wanted)


def test_what_does_not_fit_is_said_in_a_sentence(
    generator_configs: Configs, kind: str, trained: str, tokenizers: dict[str, str], tmp_path: Path
) -> None:
    config = replace(generator_configs[kind], init=trained)
    other = generator_configs["dit" if kind == "lm" else "lm"]
    with pytest.raises(OmnitokError, match=rf"which {other.name} does not train"):
        resolved(replace(other, init=trained))
    with pytest.raises(OmnitokError, match="no such folder or file"):
        resolved(replace(config, init=str(tmp_path / "absent")))
    with pytest.raises(OmnitokError, match="describes a tokenizer"):
        resolved(replace(config, init=tokenizers["vq"]))
    source = load_generator_model(trained)
    tokenizer = load_tokenizer(str(config.tokenizer))
    if kind == "lm":
        larger = replace(tokenizer.config, codebook_size=64)
        wrong = "the model knows 32 codes, and the tokens have 64"
    else:
        larger = replace(tokenizer.config, latent_channels=16)
        wrong = r"embed\S* should have the shape \(48, 16\S*, found the shape \(48, 8"
        scaled = tmp_path / "scaled"
        save_generator(source.model, replace(source.settings, latent_scale=0.18215), scaled)
        with pytest.raises(OmnitokError, match=r"knows latents times 0.18215"):
            resolved(replace(config, init=str(scaled)))
    larger_tokenizer = type(tokenizer).from_config(larger)
    if kind == "dit":
        larger_tokenizer.latent_statistics = LatentStatistics((0.0,) * 16, (1.0,) * 16)
    larger_tokenizer.save_pretrained(tmp_path / "larger")
    larger_run = replace(config, tokenizer=str(tmp_path / "larger"))
    with pytest.raises(OmnitokError, match=wrong):
        built(larger_run)


def test_a_model_of_no_classes_is_trained_further_without_them(
    generator_configs: Configs, kind: str, tmp_path: Path
) -> None:
    config = replace(generator_configs[kind], class_conditional=False)
    model = str(train(config, tmp_path / "trained", limits=Limits(max_steps=1)).model)
    assert resolved(replace(config, init=model)).config.model.num_classes == 0
    conditional = replace(generator_configs[kind], init=model)
    if kind == "lm":
        with pytest.raises(OmnitokError, match="knows no classes"):
            resolved(conditional)
    else:
        assert built(conditional).model.config.num_classes == 3


def test_a_masked_model_of_single_codes_goes_on_with_patches_and_not_back(
    generator_configs: Configs, tmp_path: Path
) -> None:
    own = {"tokenizer": generator_configs["lm"].tokenizer, "data": generator_configs["lm"].data}
    single = MaskedModelTrainConfig(name="mask", model=MaskedModelConfig(width=32, depth=1, heads=2), **own, steps=1)
    patched = replace(single, model=replace(single.model, patch=2))
    first = str(train(single, tmp_path / "single").model)
    second = train(replace(patched, init=first), tmp_path / "patched").model
    model, source = built(replace(patched, init=first)).model, load_generator_model(first).model
    begun = {name for name, _ in model.named_parameters()} - source.state_dict().keys()
    assert begun == {"patches.join_codes.weight", "patches.part_codes.weight"}
    assert torch.equal(model.blocks[0].attention.qkv.weight, source.blocks[0].attention.qkv.weight)
    assert resolved(replace(single, init=str(second))).config.model.patch == 2
