"""What trainings of generators keep back: whole files, by default, and nothing in runs from before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from helpers.processes import on_two_processes
from helpers.runs import assert_same_losses, rows
from helpers.training import ALONE, resolved, train
from omnitok.cli import main
from omnitok.data.image import write_image
from omnitok.data.samples import Index
from omnitok.data.token_shards import TokenShards
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.recipes.shipped import RECIPES
from omnitok.training.config import AnyGeneratorConfig, DataConfig, LanguageModelTrainConfig, TrainConfig
from omnitok.training.data import held_out_batches, hold_out_items
from omnitok.training.settings import apply_settings, read_run, to_plain
from omnitok.training.stopping import Limits
from omnitok.training.tasks import make_task

FILES = 60  # of which 0.05 are 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for i in range(FILES):
        folder = root / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        write_image(folder / f"{i:02d}.png", torch.full((3, 16, 16 if i % 3 else 24), i / FILES))
    return root


@pytest.fixture(scope="module")
def shards(images: Path, tokenizers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Two folders of the same files: several views of each, of two grids."""
    out = tmp_path_factory.mktemp("shards")
    common = ["--labels", "folders", "--workers", "0", "--device", "cpu", "--shard-size", "25"]
    for name, options in (("whole", ()), ("views", ("--resolution", "16", "--views", "3"))):
        arguments = ["tokenize", str(images), "--model", tokenizers["vq"], "-o", str(out / name)]
        assert main([*arguments, *common, *options]) == 0
    return str(out / "whole"), str(out / "views")


@pytest.fixture
def config(generator_configs: dict[str, AnyGeneratorConfig], shards: tuple[str, ...]) -> AnyGeneratorConfig:
    return replace(generator_configs["lm"], shards=shards, data=DataConfig(image_batch=4, workers=0), held_out=0.05)


def items(part: TokenShards) -> list[int]:
    return sorted(int(i) for grid in part.grids for i in part.indices_of(grid))


def test_whole_files_are_kept_from_training(shards: tuple[str, ...]) -> None:
    whole = TokenShards(shards)
    keys = [whole.record(i).key for i in range(len(whole))]
    files = whole.files.tolist()
    assert len(set(keys)) == len(set(files)) == len(set(zip(keys, files, strict=True))) == FILES
    part, held = hold_out_items(whole, 0.05)
    assert len(part.grids) == 2
    assert sorted(items(part) + items(held)) == list(range(4 * FILES))
    assert len(items(held)) == 3 * 4  # of three files, in one folder one view and in the other three
    assert not {keys[i] for i in items(part)} & {keys[i] for i in items(held)}
    assert part.grids == {grid: len(part.indices_of(grid)) for grid in part.grids}
    assert not hold_out_items(whole, 0.01)[1].grids


def test_every_process_keeps_the_same_files(config: AnyGeneratorConfig) -> None:
    seen, held = set(), []
    for rank in range(2):
        task = make_task(config)
        task.resolve(Processes(rank, 2, torch.device("cpu")), None, pytest.fail)
        held.append(items(task.data.held_out))
        seen |= {i for batch in task.batches(0, 150) for i in batch.indices}
    assert held[0] == held[1]
    assert seen == set(range(4 * FILES)) - set(held[0])


def test_held_out_losses_are_logged_by_default(config: AnyGeneratorConfig, tmp_path: Path) -> None:
    config = apply_settings(replace(config, held_out=LanguageModelTrainConfig.held_out), ["model.dropout=0"])
    result = train(config, tmp_path / "default", limits=Limits(max_steps=1))
    assert set(result.validation) == {"image_loss"}
    assert rows(tmp_path / "default")[-1] == {"step": 1, "event": "validation", **result.validation}
    on_two_processes(lambda rank: train(config, tmp_path / "two", limits=Limits(max_steps=1)).steps)
    assert_same_losses(tmp_path / "default", tmp_path / "two", 1e-5)


def test_validation_is_spread_over_what_is_held_out(config: AnyGeneratorConfig) -> None:
    config = replace(config, held_out=0.4, validation_batches=1)
    held = resolved(config).data.held_out
    batches = list(held_out_batches(held, config, held.classes))
    assert [batch.size for batch in batches] == [4] * len(held.grids)
    assert all(set(batch.labels.tolist()) == {0, 1} for batch in batches)


def test_pixels_are_held_out_by_file(config: AnyGeneratorConfig, images: Path, tmp_path: Path) -> None:
    data = DataConfig(images=(str(images),), resolutions=(16,), image_batch=2, workers=0, drawn=1.0)
    config = replace(config, shards=(), data=data)
    task = resolved(config)
    held = task.data.held_out
    assert isinstance(held, Index)
    names = [{sample.path for sample in index.images} for index in (task.data.dataset.samples, held)]
    assert (len(names[0]), len(names[1]), len(names[0] | names[1])) == (FILES - 3, 3, FILES)
    (batch,) = held_out_batches(held, config, task.data.classes)
    assert set(batch.labels.tolist()) <= {0, 1}  # files, though the training draws its own
    assert train(config, tmp_path, limits=Limits(max_steps=1)).validation["image_loss"] > 0


def test_nothing_is_held_out_where_other_samples_are_named_or_files_are_few(
    config: AnyGeneratorConfig, generator_configs: dict[str, AnyGeneratorConfig]
) -> None:
    named = replace(config, validation_shards=config.shards[:1])
    assert resolved(named).config.held_out == 0.0
    assert resolved(named).sample_counts["image"] == 4 * FILES
    said: list[str] = []
    few = make_task(generator_configs["lm"])
    few.resolve(ALONE, None, said.append)
    assert [text.partition(":")[0] for text in said] == ["nothing is validated"]
    assert not few.validate(lambda _: pytest.fail("a model is measured"))
    going_on = make_task(named)
    going_on.resolve(ALONE, config, pytest.fail)
    assert going_on.config.held_out == 0.05  # what was held out stays out
    assert going_on.sample_counts["image"] == 4 * (FILES - 3)


def test_validation_shards_are_looked_at_before_the_first_step(config: AnyGeneratorConfig, tmp_path: Path) -> None:
    for name in "cd":
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "0.png", torch.zeros(3, 16, 16))
    others = replace(config, shards=(), data=replace(config.data, images=(str(tmp_path),), resolutions=(16,)))
    for refused, told in (
        (replace(config, validation_shards=(str(tmp_path / "absent"),)), "absent"),
        (replace(others, validation_shards=config.shards), "has the class 'a', which the training data do not have"),
    ):
        with pytest.raises(OmnitokError, match=told):
            resolved(refused)


def test_runs_from_before_and_what_ships_learn_from_all_files(config: AnyGeneratorConfig, tmp_path: Path) -> None:
    config = replace(config, held_out=0.0, steps=2)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", limits=Limits(max_steps=1))
    file = tmp_path / "parts" / "config.yaml"
    plain = to_plain(read_run(tmp_path / "parts"))
    del plain["held_out"]
    file.write_text(yaml.safe_dump(plain))
    result = train(read_run(tmp_path / "parts"), tmp_path / "parts", resume=True)
    assert result.validation == {}
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    generators = [recipe.config for recipe in RECIPES if not isinstance(recipe.config, TrainConfig)]
    assert generators
    assert not any(recipe.held_out for recipe in generators)
