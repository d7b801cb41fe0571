"""A language model and its tokenizer -> pictures, clips, predicted frames, and video of any length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from omnitok.errors import OmnitokError
from omnitok.generation.memory import memory_guard
from omnitok.generation.randomness import hashed_gumbel, item_keys
from omnitok.generation.requests import Counter, Labels, Progress, as_clip, batches_of, items_of, size_of
from omnitok.generation.sampling import TokenSampling, choose, guide
from omnitok.generator_settings import GeneratorSettings, SamplingValue
from omnitok.models.language_model import KVCache, LanguageModel, LanguageModelConfig, prefix_ids
from omnitok.models.tokenizer import OmniTokenizer

_ENDLESS = 2**62


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
        compiled: step by `torch.compile`.
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
        compiled: bool = False,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._config = model, model.config
        self._keys, self._sampling, self._position, self._advance = keys, sampling, position, advance
        self._grid = (prompt.shape[2], prompt.shape[3])
        if sampling.guided:
            labels, prompt = torch.cat([labels, torch.full_like(labels, -1)]), torch.cat([prompt, prompt])
        ids, hidden = _prefix(self._config, labels)
        self._cache = model.new_cache(len(labels), self._grid, window)
        if hidden is not None:
            self._cache.hide_first(hidden)
        self._step = _compiled(model) if compiled else None
        # The last token of the prompt is left for the first step, which then is a step like all others.
        tokens = torch.cat([ids, prompt.flatten(1) + self._config.first_code], dim=1)
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
            logits = self._logits()
            if self._cache.length == self._cache.keys.shape[3]:  # the frame before this one is complete
                self._cache.slide()
            if self._sampling.guided:
                guided = self._sampling.guides(index, height * width)
                logits = guide(logits, self._sampling.guidance_scale) if guided else logits.chunk(2)[0]
            noise = None
            if self._sampling.temperature:
                noise = hashed_gumbel(self._keys, self._position, logits.shape[1])
            chosen = choose(logits, noise, self._sampling)
            codes.append(chosen)
            self._next = (torch.cat([chosen, chosen]) if self._sampling.guided else chosen)[:, None]
            self._next = self._next + self._config.first_code
            self._position += 1
            self._advance()
        return torch.stack(codes, dim=1).unflatten(1, (height, width))

    def _logits(self) -> Tensor:
        """Of the next code, float32: ids that are not codes have none."""
        if self._step is None:
            logits = self._model(self._next, self._cache)
        else:
            slot = torch.tensor([self._cache.length], device=self._next.device)
            logits = self._step(self._next, self._cache, slot)
            self._cache.length += 1
        return logits[:, -1, self._config.first_code :].float()


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


def _compiled(model: LanguageModel) -> Callable[[Tensor, KVCache, Tensor], Tensor]:
    return torch.compile(model.step, dynamic=False)


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
        guidance_interval: tuple[float, float] = (0.0, 1.0),
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
        sampling = self._sampling(guidance_scale, guidance_interval, temperature, top_k, top_p)
        prompt = as_clip(prompt_frames)
        chosen, indices = self._items(labels, indices, None if prompt is None else prompt.shape[0])
        if num_frames is None:
            num_frames = 1 if prompt is None else self.settings.num_frames
        size = size_of(self.settings, num_frames, height, width, prompt)
        stride = self.tokenizer.config.temporal_patch_size
        given = 0 if prompt is None else prompt.shape[2]
        known = 0 if given == 0 else (given - 1) // stride + 1  # latent frames of the prompt
        latents = known + -(-(size[0] - given) // stride) if given else self.tokenizer.config.latent_size(*size)[0]
        grid = (latents, *self.tokenizer.config.latent_size(*size)[1:])
        self._check_length(grid, known, num_frames)
        step = Counter(progress, len(indices) * (latents - known) * grid[1] * grid[2])
        parts = []
        for part in batches_of(len(indices), batch_size):
            frames = None if prompt is None else prompt[part]
            with memory_guard(part.stop - part.start, self._bytes_per_item(grid, sampling), self.device):
                codes = self._codes(
                    chosen[part], indices[part], self._encode(frames, grid), grid, sampling, seed, compile, step
                )
                parts.append(self._pixels(codes, frames, size))
        pixels = torch.cat(parts)
        return pixels.squeeze(2) if size[0] == 1 and prompt is None else pixels

    def continue_video(
        self,
        frames: Tensor,
        num_frames: int | None = None,
        labels: Labels = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        compile: bool = False,
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
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            indices=indices,
            batch_size=batch_size,
            prompt_frames=clip,
            progress=progress,
            compile=compile,
        )

    @torch.inference_mode()
    def sample_codes(
        self,
        labels: Labels = None,
        grid: tuple[int, int, int] | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        prompt_codes: Tensor | None = None,
        progress: Progress | None = None,
        compile: bool = False,
    ) -> Tensor:
        """Sample codes (b, t, h, w); arguments and errors as in `sample`.

        Args:
            grid: (t, h, w) of the result; without it one latent frame of the trained size.
            prompt_codes: (b, t0, h, w) that the result begins with.
        """
        sampling = self._sampling(guidance_scale, guidance_interval, temperature, top_k, top_p)
        chosen, indices = self._items(labels, indices, None if prompt_codes is None else prompt_codes.shape[0])
        if grid is None:
            grid = (1, *self.tokenizer.config.latent_size(1, self.settings.height, self.settings.width)[1:])
        known = 0 if prompt_codes is None else prompt_codes.shape[1]
        if prompt_codes is not None and prompt_codes.shape[2:] != grid[1:]:
            raise ValueError(f"prompt codes are {tuple(prompt_codes.shape[2:])}, asked for is a grid of {grid[1:]}")
        self._check_length(grid, known, None)
        step = Counter(progress, len(indices) * (grid[0] - known) * grid[1] * grid[2])
        parts = []
        for part in batches_of(len(indices), batch_size):
            count = part.stop - part.start
            prompt = torch.empty(count, 0, *grid[1:], dtype=torch.long) if prompt_codes is None else prompt_codes[part]
            with memory_guard(count, self._bytes_per_item(grid, sampling), self.device):
                parts.append(
                    self._codes(
                        chosen[part], indices[part], prompt.to(self.device), grid, sampling, seed, compile, step
                    )
                )
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
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        progress: Progress | None = None,
        compile: bool = False,
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
        sampling = self._sampling(guidance_scale, guidance_interval, temperature, top_k, top_p)
        prompt = as_clip(frames)
        chosen, indices = self._items(labels, indices, None if prompt is None else prompt.shape[0])
        end = _ENDLESS if num_frames is None else num_frames
        _, height, width = size_of(self.settings, end, height, width, prompt)
        _, h, w = self.tokenizer.config.latent_size(1, height, width)
        most = self.model.config.frames_of(h, w)
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
        latents = -(-(end - given) // stride) if given else self.tokenizer.config.latent_size(end, 1, 1)[0]
        step = Counter(progress, -1 if num_frames is None else len(indices) * latents * h * w)
        make = self._ring if method == "ring" or (method is None and can_ring) else self._feedback
        size, grid = (end, height, width), (window, h, w)
        return make(chosen, indices, prompt, size, grid, sampling, seed, compile, step)

    # ------------------------------------------------------------------------------------------------------ streams

    @torch.inference_mode()
    def _ring(
        self,
        labels: Tensor,
        indices: Sequence[int],
        prompt: Tensor | None,
        size: tuple[int, int, int],
        grid: tuple[int, int, int],
        sampling: TokenSampling,
        seed: int,
        compiled: bool,
        step: Counter,
    ) -> Iterator[Tensor]:
        decoder = self.tokenizer.decoder_stream((_ENDLESS, *size[1:]))
        with memory_guard(len(indices), self._bytes_per_item(grid, sampling), self.device):
            codes = self._encode(prompt, grid, grid[0] - 1, len(indices))
            keys = item_keys(seed, indices, self.device)
            sampler = CodeSampler(
                self.model,
                labels,
                codes,
                keys,
                sampling,
                grid[0],
                codes.shape[1] * grid[1] * grid[2],
                compiled,
                lambda: step.add(len(indices)),
            )
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
        sampling: TokenSampling,
        seed: int,
        compiled: bool,
        step: Counter,
    ) -> Iterator[Tensor]:
        config = self.tokenizer.config
        kept = config.frames_of(max(1, grid[0] // 2))
        done, latent = 0, None
        context: Tensor | None = None
        if prompt is not None:
            prompt = prompt.to(self.tokenizer.device, self.tokenizer.dtype)
            context, done = prompt[:, :, -config.frames_of(grid[0] - 1) :], prompt.shape[2]
            yield prompt
        with memory_guard(len(indices), self._bytes_per_item(grid, sampling), self.device):
            while done < size[0]:
                known = self._encode(context, grid, grid[0] - 1, len(indices))
                left = size[0] - done
                new = -(-left // config.temporal_patch_size) if done else config.latent_size(left, 1, 1)[0]
                whole = (min(grid[0], known.shape[1] + new), *grid[1:])
                codes = self._codes(labels, indices, known, whole, sampling, seed, compiled, step, latent)
                latent = (known.shape[1] if latent is None else latent) + whole[0] - known.shape[1]
                pixels = self.tokenizer.decode_codes(codes, (config.frames_of(whole[0]), *size[1:])).clamp(-1, 1)
                pixels = pixels[:, :, config.frames_of(known.shape[1]) :][:, :, :left]
                done += pixels.shape[2]
                joined = pixels if context is None else torch.cat([context, pixels], dim=2)
                context = joined[:, :, -kept:].clone()
                yield pixels

    # -------------------------------------------------------------------------------------------------------- parts

    def _sampling(
        self,
        guidance_scale: float | None,
        guidance_interval: tuple[float, float],
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
    ) -> TokenSampling:
        given: Mapping[str, SamplingValue] = {
            "guidance_scale": guidance_scale,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
        }
        values: dict[str, float] = {}
        for name, value in given.items():
            value = self.settings.sampling.get(name) if value is None else value
            if isinstance(value, str):
                raise ValueError(f"{name} must be a number, found {value!r}")
            if value is not None:
                values[name] = value
        sampling = TokenSampling(guidance_interval=guidance_interval, **values)  # type: ignore[arg-type]
        if sampling.guided and not self.model.config.num_classes:
            raise ValueError(
                f"a model without classes cannot be guided: guidance_scale must be 1, found {guidance_scale}"
            )
        return sampling

    def _items(self, labels: Labels, indices: Sequence[int] | None, prompts: int | None) -> tuple[Tensor, list[int]]:
        """Labels (b,), -1 for none, and indices of all items."""
        numbers, items = items_of(labels, indices, prompts, self.settings, self.model.config.num_classes)
        return torch.tensor(numbers, device=self.device), items

    def _check_length(self, grid: tuple[int, int, int], known: int, num_frames: int | None) -> None:
        most = self.model.config.frames_of(*grid[1:])
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
        rows = 2 if sampling.guided else 1
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
        codes = self.tokenizer.encode(frames[:, :, -config.frames_of(latents) :]).codes
        assert codes is not None
        return codes.to(self.device)

    def _codes(
        self,
        labels: Tensor,
        indices: Sequence[int],
        prompt: Tensor,
        grid: tuple[int, int, int],
        sampling: TokenSampling,
        seed: int,
        compiled: bool,
        step: Counter,
        first_frame: int | None = None,
    ) -> Tensor:
        """Prompt and sampled codes: (b, t, h, w)."""
        prompt = prompt.expand(len(labels), -1, -1, -1)
        keys = item_keys(seed, indices, self.device)
        position = (prompt.shape[1] if first_frame is None else first_frame) * grid[1] * grid[2]
        sampler = CodeSampler(
            self.model, labels, prompt, keys, sampling, grid[0], position, compiled, lambda: step.add(len(labels))
        )
        frames = [sampler.frame() for _ in range(grid[0] - prompt.shape[1])]
        return torch.cat([prompt, torch.stack(frames, dim=1)], dim=1)

    def _pixels(self, codes: Tensor, prompt: Tensor | None, size: tuple[int, int, int]) -> Tensor:
        """Clips (b, 3, *size) that begin with the prompt."""
        if prompt is None:
            return self.tokenizer.decode_codes(codes, size).clamp(-1, 1)
        config = self.tokenizer.config
        given = prompt.shape[2]
        known = config.frames_of((given - 1) // config.temporal_patch_size + 1)
        pixels = self.tokenizer.decode_codes(codes, (known + size[0] - given, *size[1:])).clamp(-1, 1)
        return torch.cat([prompt.to(pixels), pixels[:, :, known:]], dim=2)
