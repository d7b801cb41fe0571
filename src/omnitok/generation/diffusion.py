"""A diffusion transformer and its tokenizer -> pictures, clips, predicted frames, filled holes, video of any length."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.diffusion import (
    SAMPLERS,
    Denoiser,
    ddim,
    ddpm,
    dpm_solver_2m,
    flow_euler,
    flow_heun,
    flow_times,
    guided,
    linear_schedule,
    respace,
    with_known,
)
from omnitok.errors import OmnitokError
from omnitok.generation.memory import memory_guard
from omnitok.generation.randomness import item_generators, item_noise
from omnitok.generation.requests import Counter, Labels, Progress, as_clip, batches_of, items_of, size_of
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.sampling import TRAINED_STEPS, DiffusionSampling, choose_sampling, narrow
from omnitok.models.tokenizer import OmniTokenizer

# Where neither the caller nor the settings say: for noise prediction as in the paper, for flow matching as usual.
_DEFAULT_SAMPLER: dict[str, Literal["ddpm", "euler"]] = {"epsilon": "ddpm", "flow": "euler"}
_DEFAULT_STEPS = {"ddpm": 250, "ddim": 50, "dpm++": 25, "euler": 50, "heun": 25}


class DiffusionGenerator:
    """Pictures and clips from a diffusion transformer over the latents of a KL tokenizer.

    Args:
        model, tokenizer: trained on one another, each on its device; put in `eval` mode.
        settings: class names, trained size, sampling defaults, and the scale of the latents.

    Raises:
        OmnitokError: the tokenizer has codes instead of latents, another number of channels, or no latent statistics.
    """

    def __init__(self, model: DiffusionTransformer, tokenizer: OmniTokenizer, settings: GeneratorSettings) -> None:
        config = tokenizer.config
        if config.bottleneck != "kl":
            raise OmnitokError("the tokenizer is a quantizer; a diffusion model needs the Gaussian latents of a VAE")
        if config.latent_channels != model.config.latent_channels:
            raise OmnitokError(
                f"the tokenizer has {config.latent_channels} latent channels, the diffusion model was trained on "
                f"{model.config.latent_channels}: they do not belong together"
            )
        if settings.classes and len(settings.classes) != model.config.num_classes:
            raise OmnitokError(
                f"the settings name {len(settings.classes)} classes, the model has {model.config.num_classes}"
            )
        if settings.latent_scale is None and (config.latent_mean is None or config.latent_std is None):
            raise OmnitokError(
                "the tokenizer's configuration has no latent_mean and latent_std to normalise with; released models "
                "need latent_scale=0.18215 in their settings instead"
            )
        self.model, self.tokenizer, self.settings = model.eval(), tokenizer.eval(), settings
        try:
            self._default_sampling = narrow(settings.sampling, DiffusionSampling)
        except ValueError as error:
            raise OmnitokError(f"the settings' sampling is not that of a diffusion model: {error}") from error
        self._schedule = linear_schedule(TRAINED_STEPS) if model.config.objective == "epsilon" else None

    @property
    def device(self) -> torch.device:
        """Where the diffusion transformer is."""
        return self.model.device

    # ------------------------------------------------------------------------------------------------------- latents

    def normalize(self, latents: Tensor) -> Tensor:
        """The tokenizer's latents (b, c, …) as the model knows them."""
        mean, scale = self._statistics(latents)
        return (latents - mean) * scale

    def denormalize(self, latents: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        mean, scale = self._statistics(latents)
        return latents / scale + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Mean, and what to multiply with, (c, 1, …) each."""
        if self.settings.latent_scale is not None:
            return 0.0, self.settings.latent_scale
        config = self.tokenizer.config
        assert config.latent_mean is not None
        assert config.latent_std is not None
        shape = (-1, *[1] * (like.ndim - 2))
        mean, std = (
            torch.tensor(v, device=like.device).reshape(shape) for v in (config.latent_mean, config.latent_std)
        )
        return mean, 1 / std

    @torch.inference_mode()
    def sample_latents(
        self,
        labels: Labels = None,
        grid: tuple[int, ...] | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        progress: Progress | None = None,
        **how: Any,
    ) -> Tensor:
        """Sample latents for `tokenizer.decode`: (b, c, h, w) or (b, c, t, h, w); other arguments as in `sample`.

        Args:
            grid: (h, w) of pictures or (t, h, w) of clips; without it pictures of the trained size.
            known: (b or 1, c, …grid), the tokenizer's latents, to be kept where the mask says so.
            mask: bool, (b or 1, 1 or c, …grid), True where `known` is to be kept.

        Raises:
            ValueError: as `sample`; one of known and mask without the other, or of another shape.
        """
        if grid is None:
            grid = self.tokenizer.config.latent_shape(1, self.settings.height, self.settings.width)[1:]
        if len(grid) not in (2, 3) or min(grid) < 1:
            raise ValueError(f"a grid is (h, w) or (t, h, w) of at least 1 each, found {tuple(grid)}")
        sampling = self._sampling(how, clips=len(grid) == 3 and grid[0] > 1)
        numbers, items = self._items(labels, indices, None)
        shape = (self.model.config.latent_channels, *grid)
        if (known is None) != (mask is None):
            raise ValueError("known latents and their mask go together: give both or neither")
        if known is not None and mask is not None:
            for name, given in (("known", known), ("mask", mask)):
                fits = given.ndim == len(shape) + 1 and given.shape[0] in (1, len(items))
                if not fits or given.shape[2:] != shape[1:] or given.shape[1] not in (shape[0], int(name == "mask")):
                    raise ValueError(f"{name} must be {(len(items), *shape)}, found {tuple(given.shape)}")
            known = self.normalize(known.float().to(self.device)).expand(len(items), *shape)
            mask = mask.to(self.device).expand(len(items), *shape)
        generators = item_generators(seed, items)
        batches = batches_of(len(items), batch_size)
        counter = Counter(progress, _steps(sampling) * len(batches))
        parts = []
        for part in batches:
            held = None if known is None or mask is None else (known[part], mask[part])
            parts.append(self._sample(numbers[part], generators[part], shape, sampling, held, counter))
        return self.denormalize(torch.cat(parts))

    def _sample(
        self,
        labels: Tensor,
        generators: Sequence[torch.Generator],
        shape: tuple[int, ...],
        sampling: DiffusionSampling,
        given: tuple[Tensor, Tensor] | None,
        counter: Counter,
    ) -> Tensor:
        """Normalised latents (b, *shape) float32; `given` are normalised known latents and their mask."""

        def noise(x: Tensor) -> Tensor:
            return item_noise(generators, shape).to(self.device)

        def network(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return self.model(x.to(self.model.dtype), t, y).float()

        top = TRAINED_STEPS - 1 if self.model.config.objective == "epsilon" else 1
        low, high = (share * top for share in sampling.guidance_interval)
        denoise = guided(
            network,
            labels if self.model.config.num_classes else None,
            self.model.config.null_label,
            sampling.guidance_scale,
            sampling.guided_channels,
            None if sampling.guidance_interval == (0, 1) else (low, high),
        )
        if given is not None:
            denoise = with_known(denoise, *given, self._schedule)
        with memory_guard(len(generators), self._bytes_per_item(shape, sampling), self.device):
            return self._run(denoise, noise(torch.empty(0)), sampling, noise, counter)

    def _bytes_per_item(self, shape: tuple[int, ...], sampling: DiffusionSampling) -> int:
        """About what one block of the network keeps at once: input, norm, q, k, v, and the hidden layer twice."""
        config = self.model.config
        rows = 1 if sampling.guidance_scale == 1 else 2
        tokens = math.prod(shape[1:]) // config.patch_size**2
        channels = round(config.width * (5 + 2 * config.feedforward_multiple))
        return rows * tokens * channels * self.model.dtype.itemsize

    def _run(
        self,
        denoise: Denoiser,
        x: Tensor,
        sampling: DiffusionSampling,
        noise: Callable[[Tensor], Tensor],
        counter: Counter,
    ) -> Tensor:

        def report(done: int, total: int) -> None:
            counter.add(1)

        if self._schedule is None:
            walk = flow_euler if sampling.sampler == "euler" else flow_heun
            return walk(denoise, x, flow_times(_steps(sampling), sampling.shift), report)
        spacing = sampling.spacing or ("linspace" if sampling.sampler == "ddpm" else "trailing")
        schedule = respace(self._schedule, _steps(sampling), spacing)
        if sampling.sampler == "ddpm":
            return ddpm(denoise, x, schedule, noise, report)
        if sampling.sampler == "ddim":
            return ddim(denoise, x, schedule, sampling.eta, noise, report)
        return dpm_solver_2m(denoise, x, schedule, report)

    # ------------------------------------------------------------------------------------------------------- pixels

    @torch.inference_mode()
    def sample(
        self,
        labels: Labels = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guided_channels: int | None = None,
        eta: float | None = None,
        spacing: str | None = None,
        shift: float | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        prompt_frames: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Sample pictures (b, 3, H, W), or clips (b, 3, T, H, W) where num_frames > 1, in [-1, 1].

        Arguments left None are those of the settings.

        Args:
            labels: labels or class names, one an item, or one for all prompts; None in it or instead of it is "any
                class".
            num_frames: frames of the result, given ones included; without it 1, or with a prompt the trained length.
            steps … shift: see `DiffusionSampling`.
            seed, indices: an item's random numbers depend on the seed and its index only; without indices the items are
                0, 1, ...; with indices and no labels there are as many items as indices.
            batch_size: items sampled at once; without it all.
            prompt_frames: (b, 3, T0, H, W) or (b, 3, H, W), which the result begins with, unchanged. Nothing else is
                encoded: of them, the last 1 + t * k frames (t frames make a latent frame), so that what follows joins
                on to the very last.
            progress: called with (steps done, steps in all).

        Raises:
            ValueError: an unknown label, sampler or size; a sampler for models of the other objective; a clip from a
                model of pictures; a prompt of another size or too long.
            OmnitokError: too little memory, with what would fit.
        """
        if num_frames is None:
            num_frames = 1 if prompt_frames is None else self.settings.num_frames
        sampling = self._sampling(
            {
                "steps": steps,
                "sampler": sampler,
                "guidance_scale": guidance_scale,
                "guidance_interval": guidance_interval,
                "guided_channels": guided_channels,
                "eta": eta,
                "spacing": spacing,
                "shift": shift,
            },
            clips=num_frames > 1,
        )
        prompt = as_clip(prompt_frames)
        numbers, items = self._items(labels, indices, None if prompt is None else prompt.shape[0])
        size = self._size(num_frames, height, width, prompt)
        generators = item_generators(seed, items)
        batches = batches_of(len(items), batch_size)
        counter = Counter(progress, _steps(sampling) * len(batches))
        parts = []
        for part in batches:
            frames = None if prompt is None else prompt[part]
            parts.append(self._clip(numbers[part], generators[part], size, sampling, frames, counter))
        pixels = torch.cat(parts)
        return pixels.squeeze(2) if size[0] == 1 and prompt is None else pixels

    def continue_video(
        self,
        frames: Tensor,
        num_frames: int | None = None,
        labels: Labels = None,
        height: int | None = None,
        width: int | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        **how: Any,
    ) -> Tensor:
        """Frame prediction: clips (b, 3, num_frames, H, W) that begin with `frames` (b, 3, T0, H, W), unchanged.

        The same as `sample(labels, num_frames, prompt_frames=frames)`, which says the other arguments and errors, but
        height and width are the frames' own. The given latents are held at every step of the sampler (see
        `omnitok.diffusion.with_known`); the model need not have been trained for it. For more frames than it was
        trained on, see `stream_video`.
        """
        clip = as_clip(frames)
        if clip is None:
            raise ValueError("there are no frames to go on from")
        return self.sample(
            labels,
            num_frames,
            clip.shape[3] if height is None else height,
            clip.shape[4] if width is None else width,
            seed=seed,
            indices=indices,
            batch_size=batch_size,
            prompt_frames=clip,
            progress=progress,
            **how,
        )

    @torch.inference_mode()
    def inpaint(
        self,
        pixels: Tensor,
        mask: Tensor,
        labels: Labels = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        **how: Any,
    ) -> Tensor:
        """Fill holes in pictures (b, 3, H, W) or clips (b, 3, T, H, W) in [-1, 1]; the rest comes back unchanged.

        Args:
            mask: bool, (b or 1, 1, …) over the pixels' own height, width and frames: True where to fill. What lies
                there does not matter. A latent is sampled anew where any of its pixels is to be filled.

        Returns:
            The pixels' own shape. Other arguments and errors as in `sample`.
        """
        if not isinstance(pixels, Tensor) or pixels.ndim not in (4, 5) or pixels.shape[1] != 3:
            found = str(tuple(pixels.shape)) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ValueError(f"pixels must be (b, 3, H, W) or (b, 3, T, H, W), found {found}")
        sampling = self._sampling(how, clips=pixels.ndim == 5 and pixels.shape[2] > 1)
        accepted = (1, *pixels.shape[2:])
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape[1:]) != accepted:
            found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"the mask must be boolean of shape (b, {', '.join(map(str, accepted))}), found {found}")
        if mask.shape[0] not in (1, pixels.shape[0]):
            raise ValueError(f"{pixels.shape[0]} items and {mask.shape[0]} masks do not match")
        mask = mask.expand(pixels.shape[0], *accepted)
        numbers, items = self._items(labels, indices, pixels.shape[0])
        is_image = pixels.ndim == 4
        holes = mask.unsqueeze(2) if is_image else mask
        if holes.shape[2] > 1:
            self._check_clip(holes.shape[2])
        hidden = _without(pixels, mask)  # so that nothing of what lies in the holes gets into the latents around them
        generators, batches = item_generators(seed, items), batches_of(len(items), batch_size)
        counter = Counter(progress, _steps(sampling) * len(batches))
        parts = []
        for part in batches:
            encoding = self.tokenizer.encode(hidden[part], check_range=False)
            known = self.normalize(encoding.latents.float().to(self.device))
            kept = ~self._latent_mask(holes[part]).to(self.device)
            kept = (kept.squeeze(2) if is_image else kept).expand(known.shape)
            latents = self._sample(
                numbers[part], generators[part], tuple(known.shape[1:]), sampling, (known, kept), counter
            )
            parts.append(self._decode(latents, encoding.size))
        filled = torch.cat(parts)
        return torch.where(mask.to(filled.device), filled, pixels.to(filled))

    def stream_video(
        self,
        labels: Labels = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        frames: Tensor | None = None,
        window: int | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        progress: Progress | None = None,
        **how: Any,
    ) -> Iterator[Tensor]:
        """Clips of any length in constant memory: pieces (b, 3, n, H, W) in [-1, 1], as they are made.

        A window is sampled, its last frames (half the window's latent frames) are encoded anew as the beginning of the
        next one, which goes on from them (the paper's Figure 8). Everything the model sees is as in training, but there
        may be seams.

        Args:
            num_frames: frames in all, given ones included; None never ends.
            frames: (b, 3, T0, H, W) to go on from, of any length; the first piece is they, unchanged.
            window: latent frames sampled at once, at least 2; without it those of the trained length.
            progress: called with (steps done, steps in all, or -1 for no end).

        Raises:
            ValueError: as `sample`, at once and not at the first piece; a window of fewer than 2 latent frames.
        """
        sampling = self._sampling(how, clips=True)
        config, prompt = self.tokenizer.config, as_clip(frames)
        numbers, items = self._items(labels, indices, None if prompt is None else prompt.shape[0])
        window = config.latent_shape(self.settings.num_frames, 1, 1)[0] if window is None else window
        if window < 2:
            raise ValueError(f"a window must have at least 2 latent frames, found {window}")
        given = 0 if prompt is None else prompt.shape[2]
        if num_frames is not None and num_frames <= given:
            raise ValueError(f"{given} frames are given, so num_frames must be larger, found {num_frames}")
        whole, overlap = config.num_frames(window), config.num_frames(window // 2)
        size = self._size(max(whole, given + 1), height, width, prompt)
        total = -1
        if num_frames is not None:
            first = whole if prompt is None else given + whole - config.num_frames(self._known_frames(given, window))
            total = _steps(sampling) * (1 + max(0, -(-(num_frames - first) // (whole - overlap))))
        counter = Counter(progress, total)
        generators = item_generators(seed, items)
        return self._stream(numbers, generators, (whole, *size[1:]), sampling, prompt, num_frames, window, counter)

    @torch.inference_mode()
    def _stream(
        self,
        labels: Tensor,
        generators: Sequence[torch.Generator],
        size: tuple[int, int, int],
        sampling: DiffusionSampling,
        prompt: Tensor | None,
        num_frames: int | None,
        window: int,
        counter: Counter,
    ) -> Iterator[Tensor]:
        made = 0
        if prompt is not None:
            made = prompt.shape[2]
            yield prompt
        while num_frames is None or made < num_frames:
            if prompt is not None:
                most = self.tokenizer.config.num_frames(self._known_frames(prompt.shape[2], window))
                prompt = prompt[:, :, -most:]
            clip = self._clip(labels, generators, size, sampling, prompt, counter)
            piece = clip if prompt is None else clip[:, :, prompt.shape[2] :]
            if num_frames is not None:
                piece = piece[:, :, : num_frames - made]
            made += piece.shape[2]
            prompt = clip
            yield piece

    def _known_frames(self, given: int, window: int) -> int:
        """Latent frames of a prompt of `given` frames that a window goes on from."""
        return min((given - 1) // self.tokenizer.config.temporal_patch_size + 1, window // 2)

    # --------------------------------------------------------------------------------------------------------- parts

    def _clip(
        self,
        labels: Tensor,
        generators: Sequence[torch.Generator],
        size: tuple[int, int, int],
        sampling: DiffusionSampling,
        prompt: Tensor | None,
        counter: Counter,
    ) -> Tensor:
        """Clips (b, 3, *size) in [-1, 1] that begin with the prompt (b, 3, T0, H, W)."""
        config = self.tokenizer.config
        if prompt is None:
            shape = (config.latent_channels, *config.latent_shape(*size))
            latents = self._sample(labels, generators, shape, sampling, None, counter)
            return self._decode(latents, size)
        given = prompt.shape[2]
        first = (given - 1) // config.temporal_patch_size + 1  # latent frames of the prompt
        encoded = self.tokenizer.encode(prompt[:, :, -config.num_frames(first) :], check_range=False).latents
        encoded = self.normalize(encoded.float().to(self.device))
        more = -(-(size[0] - given) // config.temporal_patch_size)
        known = F.pad(encoded, (0, 0, 0, 0, 0, more))
        mask = torch.zeros_like(known, dtype=torch.bool)
        mask[:, :, :first] = True
        latents = self._sample(labels, generators, tuple(known.shape[1:]), sampling, (known, mask), counter)
        shown = config.num_frames(first)
        pixels = self._decode(latents, (shown + size[0] - given, *size[1:]))
        return torch.cat([prompt.to(pixels), pixels[:, :, shown:]], dim=2)

    def _decode(self, latents: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Normalised latents -> pixels in [-1, 1]; clips one by one, whose decoding takes more memory than sampling."""
        parts = []
        for part in self.denormalize(latents).split(len(latents) if size[0] == 1 else 1):
            with memory_guard(len(part), 0, self.tokenizer.device):
                parts.append(self.tokenizer.decode(part, size).float().clamp(-1, 1))
        return torch.cat(parts)

    def _latent_mask(self, holes: Tensor) -> Tensor:
        """holes (b, 1, T, H, W) -> which latents (b, 1, t, h, w) hold any of them."""
        p, s = self.tokenizer.config.patch_size, self.tokenizer.config.temporal_patch_size
        padding = (0, -holes.shape[4] % p, 0, -holes.shape[3] % p, 0, 0)
        in_space = F.max_pool2d(F.pad(holes.float(), padding).flatten(0, 2)[:, None], p)
        grid = in_space.unflatten(0, (holes.shape[0], holes.shape[2])).squeeze(2)  # b T h w
        rest = F.pad(grid[:, 1:], (0, 0, 0, 0, 0, -(grid.shape[1] - 1) % s)).unflatten(1, (-1, s)).amax(2)
        return torch.cat([grid[:, :1], rest], dim=1)[:, None] > 0

    def _sampling(self, given: dict[str, Any], clips: bool) -> DiffusionSampling:
        """What was asked for, then what the settings say, then the defaults."""
        sampling = choose_sampling(self._default_sampling, given, clips)
        objective = self.model.config.objective
        sampler = sampling.sampler or _DEFAULT_SAMPLER[objective]
        sampling = dataclasses.replace(sampling, sampler=sampler, steps=sampling.steps or _DEFAULT_STEPS[sampler])
        if SAMPLERS[sampler] != objective:
            fitting = ", ".join(name for name, kind in SAMPLERS.items() if kind == objective)
            raise ValueError(
                f"sampler {sampling.sampler!r} is not for models of objective {objective!r}; for this one use {fitting}"
            )
        if sampling.guidance_scale != 1 and not self.model.config.num_classes:
            raise ValueError(
                f"a model without classes cannot be guided: guidance_scale must be 1, found {sampling.guidance_scale}"
            )
        if sampling.guided_channels is not None and sampling.guided_channels > self.model.config.latent_channels:
            raise ValueError(
                f"guided_channels must be at most {self.model.config.latent_channels}, the number of latent channels, "
                f"found {sampling.guided_channels}"
            )
        return sampling

    def _items(self, labels: Labels, indices: Sequence[int] | None, prompts: int | None) -> tuple[Tensor, list[int]]:
        """Label ids (b,), `num_classes` for none, and indices of all items."""
        classes = self.model.config.num_classes
        numbers, items = items_of(labels, indices, prompts, self.settings, classes)
        return torch.tensor([classes if n == -1 else n for n in numbers], device=self.device), items

    def _size(self, frames: int, height: int | None, width: int | None, given: Tensor | None) -> tuple[int, int, int]:
        """`size_of`, for a model that can make so many frames."""
        size = size_of(self.settings, frames, height, width, given)
        if frames > 1:
            self._check_clip(frames)
        return size

    def _check_clip(self, frames: int) -> None:
        if not self.model.config.temporal:
            raise ValueError(f"this model makes pictures only, so num_frames must be 1, found {frames}")


def _steps(sampling: DiffusionSampling) -> int:
    assert sampling.steps is not None  # `_sampling` has chosen
    return sampling.steps


def _without(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pixels with the holes painted in the mean colour of the rest of their picture or clip."""
    rest = torch.where(mask, torch.zeros_like(pixels), pixels)  # whatever is there, NaN included
    count = (~mask).flatten(1).sum(1).clamp_min(1)[:, None]  # b 1
    mean = rest.flatten(2).sum(2) / count  # b 3
    return torch.where(mask, mean.reshape(*mean.shape, *[1] * (pixels.ndim - 2)), rest)
