"""A language model and its tokenizer -> pictures, clips, predicted frames, and video of any length."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from omnitok.errors import OmnitokError
from omnitok.generation.memory import available_bytes, memory_guard
from omnitok.generation.randomness import hashed_gumbel, item_keys
from omnitok.generation.requests import Counter, Labels, Progress, as_clip, batches_of, items_of, size_of
from omnitok.generation.sampling import choose, guide
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.code_sequence import LanguageModelConfig, prefix_ids
from omnitok.models.kv_cache import KVCache
from omnitok.models.language_model import LanguageModel
from omnitok.models.packed_linear import pack_linears
from omnitok.models.sampling import TokenSampling, choose_sampling, narrow
from omnitok.models.tokenizer import OmniTokenizer

_ENDLESS = 2**62
_STEPS_TO_LAY_OUT = 32  # from so many on, laying out the weights for few rows (about as long as 5 steps) pays

Step = Callable[[Tensor, KVCache], Tensor]
"""One token a sequence (b, 1), and the cache that it joins -> logits (b, 1, vocabulary)."""


class CodeSampler:
    """Samples the codes of a batch, latent frame after latent frame, with a static cache; the state of one sampling.

    The prompt is read in one pass, then one token a step; where guided, conditional and unconditional sequences are the
    two halves of one batch. A full cache slides, so that any number of frames can be sampled in constant memory (rotary
    positions only).

    Args:
        labels: (b,) with -1 for none.
        prompt: (b, t, h, w) codes of the latent frames before the first sampled one, t >= 0.
        keys: (b,) of the items, from `item_keys`.
        window: latent frames that the cache holds.
        position: of the first sampled code in its item's sequence: what its random numbers depend on.
        step: a faster way through the model for one token a sequence; None: the model's own.
        advance: called after each step.
    """

    def __init__(
        self,
        model: LanguageModel,
        labels: Tensor,
        prompt: Tensor,
        keys: Tensor,
        sampling: TokenSampling,
        window: int,
        position: int = 0,
        step: Step | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self._config, self._step = model.config, model if step is None else step
        self._keys, self._sampling, self._position, self._advance = keys, sampling, position, advance
        self._grid = (prompt.shape[2], prompt.shape[3])
        if sampling.is_guided:
            labels, prompt = torch.cat([labels, torch.full_like(labels, -1)]), torch.cat([prompt, prompt])
        ids, hidden = _prefix(self._config, labels)
        self._cache = model.new_cache(len(labels), self._grid, window)
        if hidden is not None:
            self._cache.hide_first(hidden)
        # The last token of the prompt is left for the first step, which then is a step like all others.
        tokens = torch.cat([ids, prompt.flatten(1) + self._config.code_offset], dim=1)
        if tokens.shape[1] > 1:
            model.features(tokens[:, :-1], self._cache)
        self._next = tokens[:, -1:].contiguous()  # as in all later steps, or a compiled step is compiled twice

    @property
    def cache(self) -> KVCache:
        """The keys and values of what was sampled."""
        return self._cache

    def frame(self) -> Tensor:
        """The codes (b, h, w) of the next latent frame."""
        height, width = self._grid
        codes = []
        for index in range(height * width):
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
    none = labels < 0
    if not config.has_class or config.null_id is not None or not none.any():
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


@dataclass(frozen=True)
class _Run:
    """What the batches of one call have in common."""

    sampling: TokenSampling
    seed: int
    step: Step
    counter: Counter


class LanguageModelGenerator:
    """Pictures and clips from a language model over the codes of a tokenizer.

    Args:
        model, tokenizer: trained on one another, each on its device; put in `eval` mode.
        settings: class names, trained size, sampling defaults.

    Raises:
        OmnitokError: the tokenizer has no codes, or another number of them.
    """

    def __init__(self, model: LanguageModel, tokenizer: OmniTokenizer, settings: GeneratorSettings) -> None:
        if tokenizer.config.bottleneck != "vq":
            raise OmnitokError("the tokenizer is a VAE, which has no codes for a language model")
        if tokenizer.config.codebook_size != model.config.codebook_size:
            raise OmnitokError(
                f"the tokenizer has {tokenizer.config.codebook_size} codes, the language model was trained on "
                f"{model.config.codebook_size}: they do not belong together"
            )
        if settings.classes and len(settings.classes) != model.config.num_classes:
            raise OmnitokError(
                f"the settings name {len(settings.classes)} classes, the language model has {model.config.num_classes}"
            )
        self.model, self.tokenizer, self.settings = model.eval(), tokenizer.eval(), settings
        try:
            self._default_sampling = narrow(settings.sampling, TokenSampling)
        except ValueError as error:
            raise OmnitokError(f"the settings' sampling is not that of a language model: {error}") from error

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.model.device

    # ------------------------------------------------------------------------------------------------------- pixels

    @torch.inference_mode()
    def sample(
        self,
        labels: Labels = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        prompt_frames: Tensor | None = None,
        progress: Progress | None = None,
        compile: bool = False,
    ) -> Tensor:
        """Sample pictures (b, 3, H, W), or clips (b, 3, T, H, W) where num_frames > 1, in [-1, 1].

        Arguments left None are those of the settings.

        Args:
            labels: labels or class names, one an item, or one for all prompts; None in it or instead of it is "any
                class".
            num_frames: frames of the result, given ones included; without it 1, or with a prompt the trained length.
            guidance_scale, guidance_interval, temperature, top_k, top_p: see `TokenSampling`; top_k=0 and top_p=1 turn
                theirs off.
            seed, indices: an item's random numbers depend on the seed and its index only; without indices the items are
                0, 1, ...; with indices and no labels there are as many items as indices.
            batch_size: items sampled at once; without it all.
            prompt_frames: (b, 3, T0, H, W) or (b, 3, H, W), which the result begins with, unchanged. Nothing else is
                encoded: of them, the last 1 + t * k frames (t frames make a latent frame), so that what follows joins
                on to the very last.
            progress: called with (tokens sampled, tokens in all).
            compile: step by `torch.compile`.

        Raises:
            ValueError: an unknown label, a size or length outside the model's, a prompt of another size or too long.
            OmnitokError: too little memory, with what would fit.
        """
        if num_frames is None:
            num_frames = 1 if prompt_frames is None else self.settings.num_frames
        sampling = self._sampling(
            {
                "guidance_scale": guidance_scale,
                "guidance_interval": guidance_interval,
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
            },
            clips=num_frames > 1,
        )
        prompt = as_clip(prompt_frames)
        chosen, indices = self._items(labels, indices, None if prompt is None else prompt.shape[0])
        size = size_of(self.settings, num_frames, height, width, prompt)
        stride = self.tokenizer.config.temporal_patch_size
        given = 0 if prompt is None else prompt.shape[2]
        known = 0 if given == 0 else (given - 1) // stride + 1  # latent frames of the prompt
        latents = known + -(-(size[0] - given) // stride) if given else self.tokenizer.config.latent_shape(*size)[0]
        grid = (latents, *self.tokenizer.config.latent_shape(*size)[1:])
        self._check_length(grid, known, num_frames)
        batches = batches_of(len(indices), batch_size)
        run = self._run(sampling, seed, compile, batches, grid, grid[0] - known, progress)
        parts = []
        for part in batches:
            frames = None if prompt is None else prompt[part]
            with memory_guard(part.stop - part.start, self._bytes_per_item(grid, sampling), self.device):
                codes = self._codes(chosen[part], indices[part], self._encode(frames, grid), grid, run)
                parts.append(self._pixels(codes, frames, size))
        pixels = torch.cat(parts)
        return pixels.squeeze(2) if size[0] == 1 and prompt is None else pixels

    def continue_video(
        self,
        frames: Tensor,
        num_frames: int | None = None,
        labels: Labels = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        compile: bool = False,
        **how: Any,
    ) -> Tensor:
        """Frame prediction: clips (b, 3, num_frames, H, W) that begin with `frames` (b, 3, T0, H, W), unchanged.

        Of any size within the model's grid; the rest is `sample` with `prompt_frames`, which says the other arguments
        and errors. For more than the model's context holds, see `stream_video`.
        """
        clip = as_clip(frames)
        return self.sample(
            labels,
            num_frames,
            None if clip is None else clip.shape[3],
            None if clip is None else clip.shape[4],
            seed=seed,
            indices=indices,
            batch_size=batch_size,
            prompt_frames=clip,
            progress=progress,
            compile=compile,
            **how,
        )

    @torch.inference_mode()
    def sample_codes(
        self,
        labels: Labels = None,
        grid: tuple[int, int, int] | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        prompt_codes: Tensor | None = None,
        progress: Progress | None = None,
        compile: bool = False,
        **how: Any,
    ) -> Tensor:
        """Sample codes (b, t, h, w); arguments and errors as in `sample`.

        Args:
            grid: (t, h, w) of the result; without it one latent frame of the trained size.
            prompt_codes: (b, t0, h, w) that the result begins with.
        """
        if grid is None:
            grid = (1, *self.tokenizer.config.latent_shape(1, self.settings.height, self.settings.width)[1:])
        sampling = self._sampling(how, clips=grid[0] > 1)
        chosen, indices = self._items(labels, indices, None if prompt_codes is None else prompt_codes.shape[0])
        known = 0 if prompt_codes is None else prompt_codes.shape[1]
        if prompt_codes is not None and prompt_codes.shape[2:] != grid[1:]:
            raise ValueError(f"prompt codes are {tuple(prompt_codes.shape[2:])}, asked for is a grid of {grid[1:]}")
        self._check_length(grid, known, None)
        batches = batches_of(len(indices), batch_size)
        run = self._run(sampling, seed, compile, batches, grid, grid[0] - known, progress)
        parts = []
        for part in batches:
            count = part.stop - part.start
            prompt = torch.empty(count, 0, *grid[1:], dtype=torch.long) if prompt_codes is None else prompt_codes[part]
            with memory_guard(count, self._bytes_per_item(grid, sampling), self.device):
                parts.append(self._codes(chosen[part], indices[part], prompt.to(self.device), grid, run))
        return torch.cat(parts)

    def stream_video(
        self,
        labels: Labels = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        frames: Tensor | None = None,
        window: int | None = None,
        method: Literal["ring", "feedback"] | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        progress: Progress | None = None,
        compile: bool = False,
        **how: Any,
    ) -> Iterator[Tensor]:
        """Clips of any length in constant memory: pieces (b, 3, n, H, W) in [-1, 1], as they are made.

        Args:
            num_frames: frames in all, given ones included; None never ends.
            frames: (b, 3, T0, H, W) to go on from, of any length; the first piece is they, unchanged. The last of them
                are encoded, one latent frame less than the window.
            window: latent frames that are looked at; without it as many as the context holds.
            method: "ring" slides the window a latent frame at a time over one sequence, whose cache and decoder go on
                without a seam; it needs rotary positions and a causal tokenizer, and is then the default. "feedback"
                samples a whole window, encodes its last frames anew (half the window's latent frames) and goes on from
                them, as the paper does; everything the model sees is then as in training, but there may be seams.
            progress: called with (tokens sampled, tokens in all, or -1 for no end).

        Other arguments and errors as in `sample`; the arguments are checked at once, not with the first piece.
        """
        sampling = self._sampling(how, clips=True)
        prompt = as_clip(frames)
        chosen, indices = self._items(labels, indices, None if prompt is None else prompt.shape[0])
        end = _ENDLESS if num_frames is None else num_frames
        _, height, width = size_of(self.settings, end, height, width, prompt)
        _, h, w = self.tokenizer.config.latent_shape(1, height, width)
        most = self.model.config.max_frames(h, w)
        window = most if window is None else window
        if not 2 <= window <= most:
            raise ValueError(
                f"the window must be of 2 latent frames to the {most} that the context holds, found {window}"
            )
        can_ring = self.model.config.positions == "rotary" and self.tokenizer.config.streamable
        if method not in (None, "ring", "feedback"):
            raise ValueError(f"method must be 'ring' or 'feedback', found {method!r}")
        if method == "ring" and not can_ring:
            raise ValueError("method 'ring' needs rotary positions and a causal tokenizer; use 'feedback'")
        stride, given = self.tokenizer.config.temporal_patch_size, 0 if prompt is None else prompt.shape[2]
        latents = -(-(end - given) // stride) if given else self.tokenizer.config.latent_shape(end, 1, 1)[0]
        make = self._ring if method == "ring" or (method is None and can_ring) else self._feedback
        size, grid = (end, height, width), (window, h, w)
        frames_left = None if num_frames is None else latents
        run = self._run(sampling, seed, compile, [slice(0, len(indices))], grid, frames_left, progress)
        return make(chosen, indices, prompt, size, grid, run)

    # ------------------------------------------------------------------------------------------------------ streams

    @torch.inference_mode()
    def _ring(
        self,
        labels: Tensor,
        indices: Sequence[int],
        prompt: Tensor | None,
        size: tuple[int, int, int],
        grid: tuple[int, int, int],
        run: _Run,
    ) -> Iterator[Tensor]:
        decoder = self.tokenizer.decoder_stream((_ENDLESS, *size[1:]))
        with memory_guard(len(indices), self._bytes_per_item(grid, run.sampling), self.device):
            codes = self._encode(prompt, grid, grid[0] - 1, len(indices))
            sampler = self._sampler(labels, indices, codes, grid, run)
            done = 0
            if prompt is not None:
                decoder.push(codes)
                done = prompt.shape[2]
                yield prompt.to(self.tokenizer.device, self.tokenizer.dtype)
            while done < size[0]:
                pixels = decoder.push(sampler.frame()[:, None])[:, :, : size[0] - done]
                done += pixels.shape[2]
                yield pixels.clamp(-1, 1)

    @torch.inference_mode()
    def _feedback(
        self,
        labels: Tensor,
        indices: Sequence[int],
        prompt: Tensor | None,
        size: tuple[int, int, int],
        grid: tuple[int, int, int],
        run: _Run,
    ) -> Iterator[Tensor]:
        config = self.tokenizer.config
        kept = config.num_frames(max(1, grid[0] // 2))
        done, latent = 0, None
        context: Tensor | None = None
        if prompt is not None:
            prompt = prompt.to(self.tokenizer.device, self.tokenizer.dtype)
            context, done = prompt[:, :, -config.num_frames(grid[0] - 1) :], prompt.shape[2]
            yield prompt
        with memory_guard(len(indices), self._bytes_per_item(grid, run.sampling), self.device):
            while done < size[0]:
                known = self._encode(context, grid, grid[0] - 1, len(indices))
                left = size[0] - done
                new = -(-left // config.temporal_patch_size) if done else config.latent_shape(left, 1, 1)[0]
                whole = (min(grid[0], known.shape[1] + new), *grid[1:])
                codes = self._codes(labels, indices, known, whole, run, latent)
                latent = (known.shape[1] if latent is None else latent) + whole[0] - known.shape[1]
                pixels = self.tokenizer.decode_codes(codes, (config.num_frames(whole[0]), *size[1:])).clamp(-1, 1)
                pixels = pixels[:, :, config.num_frames(known.shape[1]) :][:, :, :left]
                done += pixels.shape[2]
                joined = pixels if context is None else torch.cat([context, pixels], dim=2)
                context = joined[:, :, -kept:].clone()
                yield pixels

    # -------------------------------------------------------------------------------------------------------- parts

    def _sampling(self, given: dict[str, Any], clips: bool) -> TokenSampling:
        """What was asked for, then what the settings say, then the defaults."""
        sampling = choose_sampling(self._default_sampling, given, clips)
        if sampling.is_guided and not self.model.config.num_classes:
            raise ValueError(
                f"a model without classes cannot be guided: guidance_scale must be 1, found {sampling.guidance_scale}"
            )
        return sampling

    def _items(self, labels: Labels, indices: Sequence[int] | None, prompts: int | None) -> tuple[Tensor, list[int]]:
        """Labels (b,), -1 for none, and indices of all items."""
        numbers, items = items_of(labels, indices, prompts, self.settings, self.model.config.num_classes)
        return torch.tensor(numbers, device=self.device), items

    def _check_length(self, grid: tuple[int, int, int], known: int, num_frames: int | None) -> None:
        most = self.model.config.max_frames(*grid[1:])
        if known >= most:
            raise ValueError(
                f"the prompt of {known} latent frames is longer than the context of {most} allows, which has to hold a "
                f"predicted one too: give fewer frames, or use stream_video"
            )
        if known >= grid[0]:
            raise ValueError(f"the prompt has {known} latent frames, so the grid must have more, found {grid[0]}")
        if grid[0] > most:
            asked = f"{grid[0]} latent frames" if num_frames is None else f"{num_frames} frames ({grid[0]} latent ones)"
            raise ValueError(f"{asked} are more than the {most} latent frames of the context; use stream_video")

    def _bytes_per_item(self, grid: tuple[int, int, int], sampling: TokenSampling) -> int:
        """The cache, which is nearly all; activations and the decoder are left to the allocator."""
        rows = 2 if sampling.is_guided else 1
        return KVCache.nbytes(self.model.config, rows, grid[0], grid[1:], self.model.dtype.itemsize)

    def _encode(
        self, frames: Tensor | None, grid: tuple[int, int, int], most: int | None = None, count: int = 1
    ) -> Tensor:
        """Codes (b, t, h, w) of the last whole latent frames of a prompt, `most` at most; t = 0 without one."""
        if frames is None:
            return torch.empty(count, 0, *grid[1:], dtype=torch.long, device=self.device)
        config = self.tokenizer.config
        latents = (frames.shape[2] - 1) // config.temporal_patch_size + 1
        latents = latents if most is None else min(latents, most)
        codes = self.tokenizer.encode(frames[:, :, -config.num_frames(latents) :]).codes
        assert codes is not None
        return codes.to(self.device)

    def _run(
        self,
        sampling: TokenSampling,
        seed: int,
        compiled: bool,
        batches: Sequence[slice],
        grid: tuple[int, int, int],
        frames: int | None,
        progress: Progress | None,
    ) -> _Run:
        """For batches of items of which `frames` latent frames are to be sampled, without an end where it is None."""
        items = max(part.stop - part.start for part in batches)
        total = -1 if frames is None else batches[-1].stop * frames * grid[1] * grid[2]
        steps = math.inf if frames is None else len(batches) * frames * grid[1] * grid[2]
        if compiled:
            step = _compiled(self.model)
        elif steps < _STEPS_TO_LAY_OUT or not self._leaves_room(items * self._bytes_per_item(grid, sampling)):
            step = self.model
        else:
            step = pack_linears(self.model, 2 * items if sampling.is_guided else items)
        return _Run(sampling, seed, step, Counter(progress, total))

    def _leaves_room(self, needed: int) -> bool:
        """Whether the weights fit into memory once more, with as much to spare, beside what is needed."""
        free = available_bytes(self.device)
        return free is None or needed + 2 * sum(p.nbytes for p in self.model.parameters()) < free

    def _sampler(
        self,
        labels: Tensor,
        indices: Sequence[int],
        prompt: Tensor,
        grid: tuple[int, int, int],
        run: _Run,
        first_frame: int | None = None,
    ) -> CodeSampler:
        """What goes on from the prompt (b or 1, t, h, w); `first_frame` is the number of its first new latent frame."""
        position = (prompt.shape[1] if first_frame is None else first_frame) * grid[1] * grid[2]
        return CodeSampler(
            self.model,
            labels,
            prompt.expand(len(labels), -1, -1, -1),
            item_keys(run.seed, indices, self.device),
            run.sampling,
            grid[0],
            position,
            run.step,
            lambda: run.counter.add(len(labels)),
        )

    def _codes(
        self,
        labels: Tensor,
        indices: Sequence[int],
        prompt: Tensor,
        grid: tuple[int, int, int],
        run: _Run,
        first_frame: int | None = None,
    ) -> Tensor:
        """Prompt and sampled codes: (b, t, h, w)."""
        sampler = self._sampler(labels, indices, prompt, grid, run, first_frame)
        frames = [sampler.frame() for _ in range(grid[0] - prompt.shape[1])]
        return torch.cat([prompt.expand(len(labels), -1, -1, -1), torch.stack(frames, dim=1)], dim=1)

    def _pixels(self, codes: Tensor, prompt: Tensor | None, size: tuple[int, int, int]) -> Tensor:
        """Clips (b, 3, *size) that begin with the prompt."""
        if prompt is None:
            return self.tokenizer.decode_codes(codes, size).clamp(-1, 1)
        config = self.tokenizer.config
        given = prompt.shape[2]
        known = config.num_frames((given - 1) // config.temporal_patch_size + 1)
        pixels = self.tokenizer.decode_codes(codes, (known + size[0] - given, *size[1:])).clamp(-1, 1)
        return torch.cat([prompt.to(pixels), pixels[:, :, known:]], dim=2)
