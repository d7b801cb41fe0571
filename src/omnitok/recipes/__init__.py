"""Training runs by name. One module per published run, whose docstring says data, hardware, hours, command, score."""

import difflib
from pathlib import Path

from omnitok.errors import OmnitokError
from omnitok.recipes import (
    base,
    celebahq,
    celebahq_k600,
    celebahq_ucf,
    ffhq,
    ffhq_k600,
    ffhq_ucf,
    imagenet,
    imagenet_k600,
    imagenet_mit,
    imagenet_ssv2,
    imagenet_ucf,
    table3_imagenet_lm,
    table4_k600_lm,
    table4_ucf_lm,
    table5_imagenet_dit,
    table6_ucf_latte,
    table7_regimes,
    table8_spatial_attention,
    table9_temporal_attention,
    table10_order,
    tiny,
    tiny_fsq,
    tiny_generators,
    tiny_perceptual,
)
from omnitok.training.config import AnyConfig
from omnitok.training.run_folder import check_same_recipe
from omnitok.training.settings import read_config

_TOKENIZERS: tuple[AnyConfig, ...] = (
    *tiny.STAGES,
    *tiny_perceptual.RUNS,
    *tiny_fsq.RUNS,
    *base.STAGES,
    *imagenet.RUNS,
    *celebahq.RUNS,
    *ffhq.RUNS,
    *imagenet_ucf.RUNS,
    *imagenet_k600.RUNS,
    *imagenet_mit.RUNS,
    *imagenet_ssv2.RUNS,
    *celebahq_ucf.RUNS,
    *celebahq_k600.RUNS,
    *ffhq_ucf.RUNS,
    *ffhq_k600.RUNS,
    *table7_regimes.RUNS,
    *table8_spatial_attention.RUNS,
    *table9_temporal_attention.RUNS,
    *table10_order.RUNS,
)
_GENERATORS: tuple[AnyConfig, ...] = (
    *table3_imagenet_lm.RUNS,
    *table4_ucf_lm.RUNS,
    *table4_k600_lm.RUNS,
    *table5_imagenet_dit.RUNS,
    *table6_ucf_latte.RUNS,
    *tiny_generators.RUNS,
)

RECIPES: dict[str, AnyConfig] = {recipe.name: recipe for recipe in (*_TOKENIZERS, *_GENERATORS)}
"""Name -> configuration."""


def find_recipe(name: str) -> AnyConfig:
    """The recipe of that name, or the configuration in a `.yaml` file that a run has written.

    Raises:
        OmnitokError: no such recipe, with the nearest and all names; no such file, or not a configuration.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return read_config(path)
    if (path / "config.yaml").is_file():
        return read_config(path / "config.yaml")
    close = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise OmnitokError(f"unknown recipe {name!r}; {hint}Known are {', '.join(RECIPES)}, or the config.yaml of a run")


def find_run(recipe: str, out: Path | None, resume: bool) -> tuple[AnyConfig, Path]:
    """What is to be trained, and the folder for it.

    Args:
        recipe: as for `find_recipe`; "" stands for the run in `out`.
        out: the folder of the run; None takes that of a run that is named, else runs/ and the recipe's name.
        resume: take the settings that the run in the folder was started with, where there is one.

    Raises:
        OmnitokError: as `find_recipe`, or the folder holds a run of another recipe.
    """
    config = find_recipe(recipe or str(out))
    given = Path(recipe)
    own = given if given.is_dir() else given.parent if given.suffix in (".yaml", ".yml") else None
    if recipe in RECIPES:
        own = None
    folder = out or own or Path("runs") / config.name
    if resume and (folder / "config.yaml").is_file():
        saved = read_config(folder / "config.yaml")
        check_same_recipe(config.name, saved.name, folder)
        config = saved
    return config, folder
