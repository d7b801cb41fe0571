"""Training runs by name: the published ones, their ablations, tiny ones for a CPU, and those behind what ships."""

import difflib
from pathlib import Path

from omnitok.errors import OmnitokError, describe
from omnitok.recipes import ablations, generators, released, shipped, tiny
from omnitok.recipes.recipe import Recipe
from omnitok.training.config import AnyConfig
from omnitok.training.run_folder import check_same_recipe
from omnitok.training.settings import read_config, read_run

CATALOGUE: dict[str, Recipe] = {
    recipe.config.name: recipe
    for module in (tiny, released, ablations, generators, shipped)
    for recipe in module.RECIPES
}
"""Name -> what the run is for, its data, cost and expected score, and its command."""

RECIPES: dict[str, AnyConfig] = {name: recipe.config for name, recipe in CATALOGUE.items()}
"""Name -> configuration."""


def search(text: str) -> list[Recipe]:
    """The recipes whose name, purpose or data have every word of `text`; all of them for ""."""
    words = text.lower().split()
    found = []
    for name, recipe in CATALOGUE.items():
        said = f"{name} {recipe.purpose} {recipe.data}".lower()
        if all(word in said for word in words):
            found.append(recipe)
    return found


def find_recipe(name: str) -> AnyConfig:
    """The recipe of that name, or the configuration of a run: its folder, or the `.yaml` file in it.

    Raises:
        OmnitokError: no such recipe, with the nearest; no such file, or not a configuration.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return read_config(path)
    if (path / "config.yaml").is_file():
        return read_config(path / "config.yaml")
    close = difflib.get_close_matches(name[:100], RECIPES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise OmnitokError(
        f"unknown recipe {describe(name)!r}; {hint}`omnitok recipes` lists them; the folder of a run or its "
        "config.yaml can be given too"
    )


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
        saved = read_run(folder)
        check_same_recipe(config.name, saved.name, folder)
        config = saved
    return config, folder
