"""`omnitok recipes`: what can be trained by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from omnitok.cli.report import Row, print_json, print_table, say

if TYPE_CHECKING:
    from omnitok.recipes.recipe import Recipe

DETAILED = 4
"""Up to so many recipes are shown with everything that is known of them."""


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the training runs that `omnitok train` knows by name, with purpose, data, cost and expected score.

    A few recipes are shown whole, with their commands: omnitok recipes ucf vae
    """

    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILTER...")] = ()
    """Words that the name, purpose or data of a recipe must have, all of them."""
    json: bool = False
    """Print the result as JSON on stdout."""

    def run(self) -> int:
        """Print them; the exit code: 1 where nothing is found."""
        from omnitok.recipes import search

        rows = [_row(recipe) for recipe in search(" ".join(self.words))]
        if self.json:
            print_json(rows)
        elif len(rows) > DETAILED:
            print_table(["recipe", "purpose", "cost"], [[row["recipe"], row["purpose"], row["cost"]] for row in rows])
        elif rows:
            print("\n\n".join("\n".join(f"{key:9} {value}" for key, value in row.items()) for row in rows))
        if not rows:
            say(f"no recipe has {' and '.join(self.words)}; omnitok recipes lists all")
        return 0 if rows else 1


def _row(recipe: Recipe) -> Row:
    row = {"recipe": recipe.config.name, "purpose": recipe.purpose, "data": recipe.data, "cost": recipe.cost}
    return row | {"expected": recipe.expected, "command": recipe.command}
