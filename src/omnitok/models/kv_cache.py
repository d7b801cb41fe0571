"""Keys and values of past tokens, so that sampling a token costs one step of the model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from omnitok.models.code_sequence import CodeModelConfig, LanguageModelConfig
from omnitok.models.conditions import Context
from omnitok.models.positions import rotary_3d, rotate


class KVCache:
    """Keys and values of past tokens, allocated once; made by `LanguageModel.new_cache`, owned by the caller.

    Slots are filled in order: the prefix, then latent frames. `slide` makes the cache a ring of latent frames: the
    newest frame moves over the oldest, and its slots are free for the next one. What is seen is always a prefix of the
    slots, without holes, so that no step needs a mask.

    Attributes:
        keys, values: (depth, b, heads, slots, head_dim).
        length: slots in use.
        frames: latent frames that fit.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        batch: int,
        frames: int,
        grid: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._config, self._prefix, self._frame = config, config.prefix_length, grid[0] * grid[1]
        self.grid, self.frames, self.length = grid, frames, 0
        self._slid = 0  # frames dropped
        slots = self._prefix + frames * self._frame
        shape = (config.depth, batch, config.heads, slots, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.slots = torch.arange(slots, device=device)
        self.without_class: Tensor | None = None  # (b,) rows whose first slot nobody sees; see `hide_first`
        self.contexts: Sequence[Context] | None = None  # of a conditioned model's blocks
        self.rotation: tuple[Tensor, Tensor] | None = None
        if config.positions == "rotary":
            self.rotation = rotary_tables(config, slots, grid, device, dtype)

    @staticmethod
    def nbytes(config: LanguageModelConfig, batch: int, frames: int, grid: tuple[int, int], element: int) -> int:
        """Bytes of the keys and values of such a cache, with elements of `element` bytes."""
        return 2 * config.depth * batch * (config.prefix_length + frames * grid[0] * grid[1]) * config.width * element

    def hide_first(self, rows: Tensor) -> None:
        """Let the rows (b,) where True do without their class token: slot 0 is a place holder that no other slot sees.

        The released sampler guides so: its unconditional sequences start with the start token, at position 0, and go on
        with the codes at their usual positions.
        """
        self.without_class = rows

    def slide(self) -> None:
        """Drop the oldest latent frame, when the newest is complete; the prefix then looks one frame younger.

        A token at frame t goes on to see the prefix and the frames after t - frames, all at distances that training
        had. Needs rotary positions, which are relative.
        """
        if self.rotation is None:
            raise ValueError("learned positions are absolute, so their cache cannot slide")
        if self.length != self.keys.shape[3]:
            raise ValueError("the cache slides when its last latent frame is complete, not before")
        last = slice(self.length - self._frame, self.length)
        if self.frames > 1:
            oldest = self._prefix + self._slid % (self.frames - 1) * self._frame
            for stored in (self.keys, self.values):
                stored[:, :, :, oldest : oldest + self._frame] = stored[:, :, :, last]
        self._slid += 1
        self.length -= self._frame
        device, dtype = self.keys.device, self.keys.dtype
        one = torch.ones(1, device=device)
        step = rotary_3d(one, 0 * one, 0 * one, self._config.head_dim, self._config.rotary_base)
        prefix = self.keys[:, :, :, : self._prefix]
        prefix.copy_(rotate(prefix.transpose(2, 3).float(), *step).transpose(2, 3))
        newest = rotary_tables(self._config, self._frame, self.grid, device, dtype, self.frames - 1 + self._slid)
        for table, rows in zip(self.rotation, newest, strict=True):
            table[last] = rows


def rotary_tables(
    config: CodeModelConfig,
    tokens: int,
    grid: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    first_frame: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Rotary tables (tokens, head_dim) of a sequence's beginning, or of the codes from `first_frame` on.

    The prefix stands where the first code does; its ids tell it apart.
    """
    prefix = config.prefix_length if first_frame is None else 0
    index = (torch.arange(tokens, device=device) - prefix).clamp(min=0)
    inside = index % (grid[0] * grid[1])
    frame = index // (grid[0] * grid[1]) + (first_frame or 0)
    tables = rotary_3d(frame, inside // grid[1], inside % grid[1], config.head_dim, config.rotary_base)
    return tables[0].to(dtype), tables[1].to(dtype)


def visible(cache: KVCache, start: int, n: int) -> Tensor | None:
    """(1 or b, 1, n, start + n) which slot each new token sees; None: all of them."""
    hidden = cache.without_class
    if n == 1 and hidden is None:
        return None
    queries, keys = cache.slots[start : start + n], cache.slots[: start + n]
    visible = (keys <= queries[:, None])[None, None]
    if hidden is not None:
        unseen = (keys == 0) & (queries[:, None] != 0)  # the place holder sees itself, or it would see nothing
        visible = visible & ~(hidden[:, None, None, None] & unseen)
    return visible
