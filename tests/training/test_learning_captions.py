"""Training generators on captions: from files and from shards, what is carried over, what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.runs import assert_same_run, rows
from helpers.training import built, resolved, train
from omnitok import load_generator
from omnitok.cli import main
from omnitok.data import list_media
from omnitok.errors import OmnitokError
from omnitok.hub.folder import load_generator_model
from omnitok.training.config import AnyGeneratorConfig, learns_classes
from omnitok.training.settings import apply_settings
from omnitok.training.stopping import Limits
from omnitok.training.tasks.generator_objectives import conditions_of

Configs = dict[str, AnyGeneratorConfig]
TEXT = ["model.condition={type: text, max_length: 24, depth: 1}"]
CAPTIONS = {"a": "a red wave\na wave in red", "b": "waves of blue, which are a long story", "c": "green"}


@pytest.fixture(scope="module")
def captioned(labelled_media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labelled files with a text file beside each."""
    folder = tmp_path_factory.mktemp("captioned")
    shutil.copytree(labelled_media, folder, dirs_exist_ok=True)
    for path in list_media([folder]):
        path.with_suffix(".txt").write_text(CAPTIONS[path.parent.name])
    return folder


def of_files(config: AnyGeneratorConfig, folder: Path) -> AnyGeneratorConfig:
    data = replace(config.data, images=(str(folder / "images"),), videos=(str(folder / "videos"),))
    return apply_settings(replace(config, data=data), TEXT)


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_captions_are_learnt_and_resumed(
    generator_configs: Configs, captioned: Path, kind: str, tmp_path: Path
) -> None:
    config = of_files(generator_configs[kind], captioned)
    assert config.class_conditional
    assert not learns_classes(config)
    result = train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", limits=Limits(max_steps=3))
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 6)
    assert "tflops" in result.last_row
    trained = load_generator_model(result.model)
    assert trained.model.config.condition == config.model.condition
    assert (trained.settings.classes, trained.model.config.num_classes) == ((), 0)
    generator = load_generator(result.model)
    assert generator.sample("a red wave").shape == (1, 3, 16, 16)
    assert generator.sampling.guidance_scale == config.sampling.guidance_scale


def test_a_batch_has_the_bytes_of_its_captions(generator_configs: Configs, captioned: Path) -> None:
    ready = resolved(of_files(generator_configs["lm"], captioned))
    batch = ready.data.dataset[0]
    assert set(batch.captions) <= {line for text in CAPTIONS.values() for line in text.split("\n")}
    for row, caption in zip(conditions_of(ready.config, batch).tolist(), batch.captions, strict=True):
        assert bytes(b for b in row if b >= 0).decode() == caption[:24]


def test_shards_keep_captions_for_training_and_validation(
    generator_configs: Configs, captioned: Path, tokenizers: dict[str, str], tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    command = ["tokenize", captioned / "images", "--captions", "--resolution", "16", "--model", tokenizers["vq"]]
    assert main([*map(str, command), "-o", str(shards), "--device", "cpu"]) == 0
    given = replace(generator_configs["lm"], shards=(str(shards),), validation_shards=(str(shards),))
    config = apply_settings(replace(given, data=replace(given.data, images=(), videos=())), TEXT)
    train(config, tmp_path / "run")
    assert any("image_loss" in row for row in rows(tmp_path / "run"))
    without = tmp_path / "without"
    assert main([*map(str, [*command[:2], *command[3:]]), "-o", str(without), "--device", "cpu"]) == 0
    with pytest.raises(OmnitokError, match="no captions to learn: give shards with captions"):
        train(replace(config, shards=(str(without),)), tmp_path / "refused")


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_a_class_model_takes_texts_on(generator_configs: Configs, captioned: Path, kind: str, tmp_path: Path) -> None:
    plain = generator_configs[kind]
    first = train(plain, tmp_path / "first", limits=Limits(max_steps=2)).model
    config = replace(of_files(plain, captioned), init=str(first))
    source, model = load_generator_model(first).model, built(config).model
    own = source.state_dict()
    kept = [name for name, weight in model.state_dict().items() if name in own and weight.shape == own[name].shape]
    assert all(torch.equal(model.state_dict()[name], own[name]) for name in kept)
    assert len(kept) > len(own) - 3  # all but tables with a row a class
    again = train(config, tmp_path / "second", limits=Limits(max_steps=2)).model
    other = apply_settings(replace(config, init=str(again)), ["model.condition.max_length=99"])
    assert resolved(other).config.model.condition.max_length == 24  # the architecture of what it starts from
