"""Seeds of everything random in a step, by (seed, step, place), so that resuming needs no stored random state."""

from collections.abc import Iterable

import numpy as np

WHOLE_BATCH = 2**20
"""In place of a process's rank: for what is drawn for the batch of all processes. No process has this rank."""


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a process draws in a step."""
    return _first_word(np.random.SeedSequence((seed, step, rank)))


def sample_seeds(seed: int, step: int, places: Iterable[int], use: int = 1) -> list[int]:
    """Seeds of the samples at these places of a step's whole batch, whichever process has them; others for each `use`
    (from 1)."""
    return [_first_word(np.random.SeedSequence((seed, step, place), spawn_key=(use,))) for place in places]


def _first_word(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
