"""A masked model and its tokenizer -> images, videos and everything that is made of a part of them, in a few steps."""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from omnitok.generation.autoregressive import Noise, choose, guide
from omnitok.generation.filling import CodeGenerator
from omnitok.generation.random import hashed_gumbel, item_keys
from omnitok.generation.request import Grid, ProgressTracker, Request
from omnitok.models.bottlenecks.base import digits, from_digits
from omnitok.models.conditions import Context
from omnitok.models.masked_model import MaskedModel, masked_ids
from omnitok.models.sampling import TRAINED_STEPS, MaskedSampling


class MaskedCodeSampler:
    """Draws the unknown codes of a batch in a few steps (MaskGIT, section 3.2): each step draws all of them, keeps
    those it is surest of, as many as the cosine schedule says, and hides the others again.

    With as many steps as there are unknown codes and `order="random"` each step draws one code given all that are
    known, so that the codes come from the model's joint distribution.

    Args:
        network: what gives the features of the model, or its compiled form.
        labels, others: (b,) with -1 for none, or conditions; and what guidance leads away from.
        keys: (b,) of the items, from `item_keys`.
        advance: called after each step.
        first_frame: number of the first drawn latent frame within its whole video, on which random numbers depend.
        beginnings: what was computed already of sequences of which nothing is known; it is added to.
    """

    def __init__(
        self,
        model: MaskedModel,
        network: Callable[..., Tensor],
        labels: Tensor,
        others: Tensor,
        keys: Tensor,
        sampling: MaskedSampling,
        advance: Callable[[], None] = lambda: None,
        first_frame: int = 0,
        beginnings: "Beginnings | None" = None,
    ) -> None:
        self._config, self._network, self._head, self._keys = model.config, network, model.head, keys
        self._labels, self._others = labels, others
        both = torch.cat([labels, others]) if sampling.is_guided else labels
        self._contexts = model.contexts(both)
        self._sampling, self._advance, self._first_frame = sampling, advance, first_frame
        self._beginnings = Beginnings() if beginnings is None else beginnings

    def fill(self, codes: Tensor, hidden: Tensor) -> Tensor:
        """The codes (b, t, h, w) with those that are hidden (b, t, h, w) drawn; with none hidden, nothing is."""
        steps = self._sampling.step_count
        unknown = hidden.flatten(1).sum(1)  # (b,)
        for step in range(steps):
            if hidden.any():
                left = _still_hidden(unknown, step + 1, steps)
                codes, hidden = self._step(codes, hidden, left, step / steps, step)
            self._advance()
        return codes

    def _step(self, codes: Tensor, hidden: Tensor, left: Tensor, done: float, step: int) -> tuple[Tensor, Tensor]:
        sampling, shape = self._sampling, codes.shape
        rows = hidden.flatten(1)
        items, places = rows.nonzero(as_tuple=True)  # only what is hidden is drawn
        nothing_known = step == 0 and bool(hidden.all())
        features = self._beginning(codes, hidden) if nothing_known else self._features(codes, hidden, done)
        wanted = self._head(features[items, places]).float()
        position = (self._first_frame * shape[-2] * shape[-1] + places) * TRAINED_STEPS + step
        noise = None
        if sampling.temperature:
            noise = partial(hashed_gumbel, self._keys[items], position)
        drawn = self._draw(wanted, noise)
        new = codes.flatten(1).clone()
        new[items, places] = drawn
        if not left.any():
            return new.reshape(shape), torch.zeros_like(hidden)
        if sampling.order == "random":
            confidence = torch.zeros(len(drawn), device=codes.device)
            scale = 1.0
        else:
            confidence = self._likelihood(wanted, drawn)
            scale = sampling.choice_temperature * (1 - done)
        if scale:
            confidence = confidence + scale * hashed_gumbel(self._keys[items], -1 - position, 1).squeeze(-1)
        surest = torch.full(rows.shape, math.inf, device=codes.device)
        surest[items, places] = confidence
        ranks = surest.argsort(dim=1).argsort(dim=1)
        return new.reshape(shape), (ranks < left[:, None]).reshape(shape) & hidden

    def _draw(self, logits: Tensor, noise: Noise | None) -> Tensor:
        """Codes (m,) drawn by their logits, their digits each by itself."""
        factors, chosen = self._config.factors, []
        for i, part in enumerate(logits.split(factors, dim=-1)):
            own = None if noise is None else _later(noise, sum(factors[:i]), logits.device)
            chosen.append(choose(part, own, self._sampling))
        return from_digits(torch.stack(chosen, dim=-1), factors)

    def _likelihood(self, logits: Tensor, codes: Tensor) -> Tensor:
        """The logarithms of how likely codes (m,) are, the sums over their digits."""
        factors = self._config.factors
        parts = zip(logits.split(factors, dim=-1), digits(codes, factors).split(1, dim=-1), strict=True)
        return torch.cat([part.log_softmax(-1).gather(-1, digit) for part, digit in parts], dim=-1).sum(-1)

    def _beginning(self, codes: Tensor, hidden: Tensor) -> Tensor:
        """The features of the first step: where nothing is known they depend on the conditions alone."""
        given = [self._labels, self._others] if self._sampling.is_guided else [self._labels]
        keys = [(codes.shape[1:], *row) for row in zip(*map(_rows_as_bytes, given), strict=True)]
        return self._beginnings.get(keys, lambda new: self._features(codes[new], hidden[new], 0.0, new))

    def _features(self, codes: Tensor, hidden: Tensor, done: float, items: list[int] | None = None) -> Tensor:
        """(b, n, width), guided: the head is linear, so that guided features have guided logits.

        Args:
            items: which of the batch the codes are of; None: all.
        """
        sampling, grid = self._sampling, (codes.shape[-2], codes.shape[-1])
        low, high = sampling.guidance_interval
        labels = [self._labels]
        if sampling.is_guided and low <= done < high:
            labels.append(self._others)
        ids = torch.cat([masked_ids(self._config, codes, of if items is None else of[items], hidden) for of in labels])
        contexts = self._contexts
        if contexts is not None:
            starts = range(0, len(labels) * len(self._labels), len(self._labels))
            rows = slice(len(ids)) if items is None else [start + i for start in starts for i in items]
            contexts = [Context(*(part[rows] for part in c)) for c in contexts]
        features = self._network(ids, grid, contexts=contexts)
        return guide(features, sampling.guidance_scale) if len(labels) > 1 else features


class Beginnings:
    """The features of sequences of which nothing is known, by their conditions: those of one call, the latest few."""

    _MOST = 64

    def __init__(self) -> None:
        self._known: dict[Hashable, Tensor] = {}

    def get(self, keys: Sequence[Hashable], compute: Callable[[list[int]], Tensor]) -> Tensor:
        """(b, n, width) of b keys; `compute` gives those of the items whose keys are new, each once."""
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        if new := sorted(i for key, i in first.items() if key not in self._known):
            self._known.update(zip((keys[i] for i in new), compute(new), strict=True))
        features = torch.stack([self._known[key] for key in keys])
        for key in list(self._known)[: -self._MOST]:
            del self._known[key]
        return features


def _rows_as_bytes(x: Tensor) -> list[bytes]:
    x = x.float() if x.is_floating_point() else x
    return [row.tobytes() for row in x.cpu().numpy()]


def _later(noise: Noise, start: int, device: torch.device) -> Noise:
    """The noise of the numbers from `start` on."""
    if not start:
        return noise
    return lambda numbers: noise(
        start + (torch.arange(numbers, device=device) if isinstance(numbers, int) else numbers)
    )


def _still_hidden(unknown: Tensor, done: int, steps: int) -> Tensor:
    """How many of `unknown` codes (b,) are hidden after `done` of `steps` steps, at least one less after each."""
    ratio = math.cos(math.pi / 2 * done / steps) if done < steps else 0.0
    return torch.minimum((unknown * ratio).floor().long(), unknown - done).clamp(min=0)


class _MaskedDraw:
    """Draws codes for one call."""

    def __init__(self, model: MaskedModel, request: Request[MaskedSampling], draws: int | None) -> None:
        self._model, self._request = model, request
        self._network = torch.compile(model.features) if request.compile else model.features
        self._beginnings = Beginnings()
        self._tracker = ProgressTracker(request.progress, -1 if draws is None else request.sampling.step_count * draws)

    def __call__(self, batch: slice, known: Tensor | None, grid: Grid, first_frame: int) -> Callable[[], Tensor]:
        count = batch.stop - batch.start
        codes = torch.zeros(count, *grid, dtype=torch.long, device=self._model.device)
        hidden = torch.ones_like(codes, dtype=torch.bool)
        if known is not None:
            codes[:, : known.shape[1]], hidden[:, : known.shape[1]] = known, False
        return partial(self.fill, batch, codes, hidden, first_frame)

    def fill(self, batch: slice, codes: Tensor, hidden: Tensor, first_frame: int = 0) -> Tensor:
        """The codes (b, t, h, w), those that are hidden drawn.

        Args:
            first_frame: number of the first drawn latent frame within its whole video.
        """
        request = self._request
        sampler = MaskedCodeSampler(
            self._model,
            self._network,
            request.labels[batch],
            request.others[batch],
            item_keys(request.seed, request.indices[batch], self._model.device),
            request.sampling,
            lambda: self._tracker.add(1),
            first_frame,
            self._beginnings,
        )
        return sampler.fill(codes, hidden)


class MaskedGenerator(CodeGenerator[MaskedModel, MaskedSampling]):
    """Images and videos from a masked model over the codes of a tokenizer; see `Generator`."""

    sampling_type = MaskedSampling

    def _begin(
        self, request: Request[MaskedSampling], grid: Grid, draws: int | None, latent_frames: int | None
    ) -> _MaskedDraw:
        return _MaskedDraw(self.model, request, draws)

    def _fill(self, draw: _MaskedDraw, batch: slice, tokens: Tensor, hidden: Tensor) -> Tensor:
        return draw.fill(batch, tokens, hidden)

    def _bytes_per_item(self, grid: tuple[int, ...], sampling: MaskedSampling) -> int:
        """About what one step keeps at once: what a block computes, the logits (once also where guided) and noise."""
        config, rows = self.model.config, 2 if sampling.is_guided else 1
        channels = rows * round(config.width * (5 + 2 * config.feedforward_multiple)) + 3 * sum(config.factors)
        return math.prod(grid) * channels * 4
