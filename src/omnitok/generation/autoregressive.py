"""A language model and its tokenizer -> images, videos, predicted frames, and video of any length."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from omnitok.generation.filling import CodeGenerator
from omnitok.generation.memory import available_bytes, memory_guard
from omnitok.generation.random import hashed_gumbel, item_keys
from omnitok.generation.request import ENDLESS, Grid, ProgressTracker, Request
from omnitok.models.code_sequence import LanguageModelConfig, prefix_ids
from omnitok.models.kv_cache import KVCache
from omnitok.models.language_model import LanguageModel
from omnitok.models.packed_linear import pack_linears
from omnitok.models.sampling import TokenSampling

_STEPS_TO_LAY_OUT = 32  # from so many on, laying out the weights for few rows (about as long as 5 steps) pays

Noise = Callable[[int | Tensor], Tensor]
"""Standard Gumbel noise (b, n) of the codes (b, n), or of the first n codes."""

Step = Callable[[Tensor, KVCache], Tensor]
"""One token per sequence (b, 1), and the cache that it joins -> logits (b, 1, vocabulary)."""


def guide(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022): logits, or what they are linear in, (2b, ...) -> (b, ...).

    The first half is conditional, the second unconditional.
    """
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def choose(logits: Tensor, noise: Noise | None, sampling: TokenSampling) -> Tensor:
    """Codes (b,) for logits (b, n) and Gumbel noise; without noise the likeliest.

    The maximum of log-probabilities plus Gumbel noise is a draw from them. Unlike the inverse of the cumulative sum, it
    hardly ever changes when the logits' last bits do, as they do with the batch size.
    """
    if noise is None:
        return logits.argmax(dim=-1)
    n = logits.shape[-1]
    logits = logits / sampling.temperature
    k = min(sampling.top_k or n, n)
    if k == n and sampling.top_p == 1:
        return (logits + noise(n)).argmax(dim=-1)
    best, codes = logits.topk(k, sorted=sampling.top_p < 1)
    if sampling.top_p < 1:
        probabilities = best.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        best = best.masked_fill(before >= sampling.top_p, -torch.inf)
    winner = (best + noise(codes)).argmax(dim=-1, keepdim=True)
    return codes.gather(-1, winner).squeeze(-1)


class CodeSampler:
    """Samples the codes of a batch, latent frame after latent frame, with a static cache; the state of one sampling.

    The prompt is read in one pass, then one token per step; where guided, conditional and unconditional sequences are
    the two halves of one batch. A full cache slides, so that any number of frames can be sampled in constant memory
    (rotary positions only).

    Args:
        labels: (b,) with -1 for none, or conditions; and `others`, which guidance leads away from.
        prompt: (b, t, h, w) codes of the latent frames before the first sampled one, t >= 0.
        keys: (b,) of the items, from `item_keys`.
        window: latent frames that the cache holds.
        position: of the first sampled code in its item's sequence: what its random numbers depend on.
        step: a faster way through the model for one token per sequence; None: the model's own.
        advance: called after each step.
        begun: (b, n) codes that the first sampled latent frame begins with.
    """

    def __init__(
        self,
        model: LanguageModel,
        labels: Tensor,
        others: Tensor,
        prompt: Tensor,
        keys: Tensor,
        sampling: TokenSampling,
        window: int,
        position: int = 0,
        step: Step | None = None,
        advance: Callable[[], None] = lambda: None,
        begun: Tensor | None = None,
    ) -> None:
        self._config, self._step = model.config, model if step is None else step
        self._keys, self._sampling, self._position, self._advance = keys, sampling, position, advance
        self._grid, self._prompt = (prompt.shape[2], prompt.shape[3]), prompt
        self._begun = prompt.new_empty(len(prompt), 0) if begun is None else begun
        known = torch.cat([prompt.flatten(1), self._begun], dim=1)
        if sampling.is_guided:
            labels, known = torch.cat([labels, others]), torch.cat([known, known])
        ids, hidden = _prefix(self._config, labels)
        self._cache = model.new_cache(len(labels), self._grid, window)
        self._cache.contexts = model.contexts(labels)
        if hidden is not None:
            self._cache.hide_first(hidden)
        # The last token of the prompt is left for the first step, which then is a step like all others.
        tokens = torch.cat([ids, known + self._config.code_offset], dim=1)
        self._model, self._unread = model, tokens[:, :-1]
        self._next = tokens[:, -1:].contiguous()  # as in all later steps, or a compiled step is compiled twice

    @property
    def cache(self) -> KVCache:
        """The keys and values of what was sampled."""
        return self._cache

    def codes(self, count: int, with_prompt: bool = False) -> Tensor:
        """The codes (b, count, h, w) of the next latent frames, or (b, t + count, h, w) with the prompt's before."""
        if self._unread.shape[1]:
            self._model.features(self._unread, self._cache)
            self._unread = self._unread[:, :0]
        known = self._prompt if with_prompt else self._prompt[:, :0]
        return torch.cat([known, *(self._frame()[:, None] for _ in range(count))], dim=1)

    def _frame(self) -> Tensor:
        height, width = self._grid
        codes = list(self._begun.unbind(1))
        self._begun = self._begun[:, :0]
        for index in range(len(codes), height * width):
            logits = self._step(self._next, self._cache)[:, -1, self._config.code_offset :].float()
            if self._cache.length == self._cache.keys.shape[3]:  # the frame before this one is complete
                self._cache.slide()
            if self._sampling.is_guided:
                guided = self._sampling.guides(index, height * width)
                logits = guide(logits, self._sampling.guidance_scale) if guided else logits.chunk(2)[0]
            noise = None
            if self._sampling.temperature:
                noise = partial(hashed_gumbel, self._keys, self._position)
            chosen = choose(logits, noise, self._sampling)
            codes.append(chosen)
            self._next = (torch.cat([chosen, chosen]) if self._sampling.is_guided else chosen)[:, None]
            self._next = self._next + self._config.code_offset
            self._position += 1
            self._advance()
        return torch.stack(codes, dim=1).unflatten(1, (height, width))


def _prefix(config: LanguageModelConfig, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Ids before the codes, and the rows that do without their class token, where there is no null class.

    Those begin as in the released sampler: a place holder that nobody sees, then the start token.
    """
    if not config.has_class or config.condition is not None:
        return prefix_ids(config, labels), None
    none = labels < 0
    if config.null_id is not None or not none.any():
        return prefix_ids(config, labels), None
    if config.prefix == "class":
        raise ValueError("this model has neither a null class nor a start token, so each item needs a label")
    ids = prefix_ids(config, labels.clamp(min=0))
    return ids.masked_fill(none[:, None], 0), none


def _compiled(model: LanguageModel) -> Step:
    compiled = torch.compile(model.step, dynamic=False)

    def step(tokens: Tensor, cache: KVCache) -> Tensor:
        logits = compiled(tokens, cache, torch.tensor([cache.length], device=tokens.device))
        cache.length += 1
        return logits

    return step


class _CodeDraw:
    """Draws codes for one call."""

    def __init__(self, model: LanguageModel, request: Request[TokenSampling], step: Step, tracker: ProgressTracker):
        self._model, self._request, self._step, self._tracker = model, request, step, tracker

    def sampler(
        self, batch: slice, known: Tensor | None, grid: Grid, first_frame: int, begun: Tensor | None = None
    ) -> CodeSampler:
        """What goes on from known codes (b, t, h, w), with a cache of the grid's latent frames."""
        request, device = self._request, self._model.device
        labels = request.labels[batch]
        if known is None:
            known = torch.empty(len(labels), 0, *grid[1:], dtype=torch.long, device=device)
        return CodeSampler(
            self._model,
            labels,
            request.others[batch],
            known.expand(len(labels), -1, -1, -1),
            item_keys(request.seed, request.indices[batch], device),
            request.sampling,
            grid[0],
            first_frame * grid[1] * grid[2] + (0 if begun is None else begun.shape[1]),
            self._step,
            lambda: self._tracker.add(len(labels)),
            begun,
        )

    def __call__(self, batch: slice, known: Tensor | None, grid: Grid, first_frame: int) -> Callable[[], Tensor]:
        count = grid[0] - (0 if known is None else known.shape[1])
        return partial(self.sampler(batch, known, grid, first_frame).codes, count, with_prompt=True)

    def fill(self, batch: slice, codes: Tensor, hidden: Tensor) -> Tensor:
        """The codes (b, t, h, w), those that are hidden sampled.

        Raises:
            ValueError: known codes come after hidden ones, or differ from item to item.
        """
        grid = (codes.shape[1], codes.shape[2], codes.shape[3])
        rows = hidden.flatten(1)
        known = int((~rows[0]).sum())
        if rows[:, :known].any() or not rows[:, known:].all():
            raise ValueError(
                "a language model sees what comes before alone, so it fills holes only where everything that is known "
                "comes before them, row by row, in all items alike; use a masked or a diffusion model"
            )
        self._tracker.add(known * len(codes))
        if known == rows.shape[1]:
            return codes
        frames, begun = divmod(known, grid[1] * grid[2])
        start = codes.flatten(1)[:, known - begun : known]
        return self.sampler(batch, codes[:, :frames], grid, frames, start).codes(grid[0] - frames, with_prompt=True)


class LanguageModelGenerator(CodeGenerator[LanguageModel, TokenSampling]):
    """Images and videos from a language model over the codes of a tokenizer; see `Generator`.

    A language model sees what comes before alone, so of `inpaint` and `outpaint` it does what has its holes after
    everything that is known, row by row: the lower part of an image, the end of a video.
    """

    sampling_type = TokenSampling

    def _begin(
        self, request: Request[TokenSampling], grid: Grid, draws: int | None, latent_frames: int | None
    ) -> _CodeDraw:
        items = max(batch.stop - batch.start for batch in request.batches)
        positions = math.inf if latent_frames is None else latent_frames * grid[1] * grid[2]
        total = -1 if latent_frames is None else len(request.indices) * latent_frames * grid[1] * grid[2]
        step: Step = self.model
        if request.compile:
            step = _compiled(self.model)
        elif len(request.batches) * positions >= _STEPS_TO_LAY_OUT and self._leaves_room(
            items * self._bytes_per_item(grid, request.sampling)
        ):
            step = pack_linears(self.model, 2 * items if request.sampling.is_guided else items)
        return _CodeDraw(self.model, request, step, ProgressTracker(request.progress, total))

    def _fill(self, draw: _CodeDraw, batch: slice, tokens: Tensor, hidden: Tensor) -> Tensor:
        return draw.fill(batch, tokens, hidden)

    def _bytes_per_item(self, grid: tuple[int, ...], sampling: TokenSampling) -> int:
        """The cache, which is nearly all; activations and the decoder are left to the allocator."""
        rows = 2 if sampling.is_guided else 1
        return KVCache.nbytes(self.model.config, rows, grid[0], (grid[1], grid[2]), self.model.dtype.itemsize)

    def _leaves_room(self, needed: int) -> bool:
        """Whether the weights fit into memory once more, with as much to spare, beside what is needed."""
        free = available_bytes(self.device)
        return free is None or needed + 2 * sum(p.nbytes for p in self.model.parameters()) < free

    # ------------------------------------------------------------------------------------------------------- streams

    def _prompt_limit(self, window: int) -> int:
        return window - 1

    def _draws_of_window(self, new: int, needed: int) -> int:
        return min(new, needed)  # what comes later changes nothing, so the last window may be short

    def _stream(self, request: Request[TokenSampling], grid: Grid, method: str | None) -> Iterator[Tensor]:
        can_ring = self.model.config.positions == "rotary" and self.tokenizer.causal
        if method not in (None, "ring", "feedback"):
            raise ValueError(f"method must be 'ring' or 'feedback', found {method!r}")
        if method == "ring" and not can_ring:
            raise ValueError("method 'ring' needs rotary positions and a causal tokenizer; use 'feedback'")
        if method == "feedback" or not can_ring:
            return self._feedback(request, grid)
        given = 0 if request.prompt is None else request.prompt.shape[2]
        frames = None if request.size[0] == ENDLESS else self._new_latent_frames(request.size[0], given)
        return self._ring(self._begin(request, grid, None, frames), request, grid, frames)

    @torch.inference_mode()
    def _ring(
        self, draw: _CodeDraw, request: Request[TokenSampling], grid: Grid, frames: int | None
    ) -> Iterator[Tensor]:
        """One sequence of `frames` latent frames, or without end: the oldest leaves the cache as the newest comes."""
        decoder = self.tokenizer.decoder_stream((None, *request.size[1:]))
        count, done, codes, known_frames = len(request.indices), 0, None, 0
        with memory_guard(count, self._bytes_per_item(grid, request.sampling), self.device):
            if request.prompt is not None:
                known = min(self._latent_frames(request.prompt.shape[2]), grid[0] - 1)
                codes = self._encode(request.prompt[:, :, -self.tokenizer.num_frames(known) :])
            sampler = draw.sampler(slice(0, count), codes, grid, 0 if codes is None else codes.shape[1])
            if codes is not None and request.prompt is not None:
                known_frames = self.tokenizer.num_frames(codes.shape[1]) - decoder.push(codes).shape[2]  # that wait yet
                done = request.prompt.shape[2]
                yield request.prompt.to(self.tokenizer.device).float()
            for drawn in itertools.count():
                if done >= request.size[0]:
                    break
                given = decoder.flush() if drawn == frames else decoder.push(sampler.codes(1))
                pixels = given[:, :, known_frames : known_frames + request.size[0] - done]
                known_frames = max(0, known_frames - given.shape[2])
                done += pixels.shape[2]
                yield pixels.float().clamp(-1, 1)
