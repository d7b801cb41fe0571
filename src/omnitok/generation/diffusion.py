"""A diffusion transformer and its tokenizer -> images, videos, predicted frames, filled holes, video of any length."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.diffusion import (
    SAMPLERS,
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
from omnitok.diffusion.objectives import Network
from omnitok.errors import OmnitokError
from omnitok.generation.filling import Filler
from omnitok.generation.random import item_generators, item_noise
from omnitok.generation.request import Grid, Labels, ProgressTracker, Request
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.conditions import Context
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.protocol import Tokenizer
from omnitok.models.sampling import TRAINED_STEPS, DiffusionSampling

# Where neither the caller nor the settings say: for noise prediction as in the paper, for flow matching as usual.
_DEFAULT_SAMPLER: dict[str, Literal["ddpm", "euler"]] = {"epsilon": "ddpm", "flow": "euler"}
_DEFAULT_STEPS = {"ddpm": 250, "ddim": 50, "dpm++": 25, "euler": 50, "heun": 25}


class _LatentDraw:
    """Draws normalised latents for one call; an item's random numbers go on from draw to draw."""

    def __init__(self, model: DiffusionTransformer, request: Request[DiffusionSampling], draws: int | None) -> None:
        sampling = request.sampling
        assert sampling.steps is not None  # `_complete` has chosen
        self._model, self._request, self._steps = model, request, sampling.steps
        self._network: Network = torch.compile(model) if request.compile else model
        self._generators = item_generators(request.seed, request.indices)
        self._tracker = ProgressTracker(request.progress, -1 if draws is None else self._steps * draws)
        self._schedule = linear_schedule(TRAINED_STEPS) if model.config.objective == "epsilon" else None

    def __call__(self, batch: slice, known: Tensor | None, grid: Grid, first_frame: int) -> Callable[[], Tensor]:
        shape = (self._model.config.latent_channels, *grid)
        if known is None:
            return self.latents(batch, shape)
        padded = F.pad(known, (0, 0, 0, 0, 0, grid[0] - known.shape[2]))
        mask = torch.zeros_like(padded, dtype=torch.bool)
        mask[:, :, : known.shape[2]] = True
        return self.latents(batch, shape, (padded, mask))

    def skip(self) -> None:
        """Count a batch of which nothing is drawn as done."""
        self._tracker.add(self._steps)

    def latents(
        self, batch: slice, shape: tuple[int, ...], held: tuple[Tensor, Tensor] | None = None
    ) -> Callable[[], Tensor]:
        """What draws latents (b, *shape) float32; `held` are known latents and the mask of where they count."""
        model, sampling, generators = self._model, self._request.sampling, self._generators[batch]

        def noise(x: Tensor) -> Tensor:
            return item_noise(generators, shape).to(model.device)

        def report(done: int, total: int) -> None:
            self._tracker.add(1)

        top = TRAINED_STEPS - 1 if self._schedule is not None else 1
        low, high = (share * top for share in sampling.guidance_interval)
        denoise = guided(
            self._network if model.encode_condition is None else _encoding_once(model, self._network),
            self._request.labels[batch] if model.config.is_conditional else None,
            self._request.others[batch],
            sampling.guidance_scale,
            sampling.guided_channels,
            None if sampling.guidance_interval == (0, 1) else (low, high),
        )
        if held is not None:
            denoise = with_known(denoise, *held, self._schedule)
        x = noise(torch.empty(0))
        if self._schedule is None:
            walk = flow_euler if sampling.sampler == "euler" else flow_heun
            return partial(walk, denoise, x, flow_times(self._steps, sampling.shift), report)
        spacing = sampling.spacing or ("linspace" if sampling.sampler == "ddpm" else "trailing")
        schedule = respace(self._schedule, self._steps, spacing)
        if sampling.sampler == "ddpm":
            return partial(ddpm, denoise, x, schedule, noise, report)
        if sampling.sampler == "ddim":
            return partial(ddim, denoise, x, schedule, sampling.eta, noise, report)
        return partial(dpm_solver_2m, denoise, x, schedule, report)


def _encoding_once(model: DiffusionTransformer, network: Callable[..., Tensor]) -> Network:
    """The network for one batch, whose conditions are the same at every step: with guidance or without, as many rows
    are always the same ones."""
    known: dict[int, list[Context] | None] = {}

    def answer(x: Tensor, t: Tensor, conditions: Tensor | None) -> Tensor:
        if len(x) not in known:
            known[len(x)] = model.contexts(conditions)
        return network(x, t, contexts=known[len(x)])

    return answer


class DiffusionGenerator(Filler[DiffusionTransformer, DiffusionSampling]):
    """Images and videos from a diffusion transformer over the latents of a KL tokenizer; see `Generator`.

    Prompts, and what surrounds a hole, are held at every step of the sampler (see `omnitok.diffusion.with_known`); the
    model need not have been trained for it.
    """

    sampling_type = DiffusionSampling

    def __init__(self, model: DiffusionTransformer, tokenizer: Tokenizer, settings: GeneratorSettings) -> None:
        super().__init__(model, tokenizer, settings)
        self.any_class = model.config.num_classes

    def _check_parts(self) -> None:
        tokenizer = self.tokenizer
        if tokenizer.is_discrete:
            raise OmnitokError("the tokenizer is a quantizer; a diffusion model needs the Gaussian latents of a VAE")
        if tokenizer.latent_channels != self.model.config.latent_channels:
            raise OmnitokError(
                f"the tokenizer has {tokenizer.latent_channels} latent channels, the diffusion model was trained on "
                f"{self.model.config.latent_channels}: they do not belong together"
            )
        if self.settings.latent_scale is None and tokenizer.latent_statistics is None:
            raise OmnitokError(
                "the tokenizer's config.json has no latent_statistics to normalise with; released models "
                "need latent_scale=0.18215 in their settings instead"
            )

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
        statistics = self.tokenizer.latent_statistics
        assert statistics is not None
        shape = (-1, *[1] * (like.ndim - 2))
        mean, std = (torch.tensor(v, device=like.device).reshape(shape) for v in (statistics.mean, statistics.std))
        return mean, 1 / std

    @torch.inference_mode()
    def sample_latents(
        self,
        labels: Labels = None,
        grid: tuple[int, ...] | None = None,
        *,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Sample latents for `tokenizer.decode`: (b, c, h, w) or (b, c, t, h, w); other arguments as in `sample`.

        Args:
            grid: (h, w) of images or (t, h, w) of videos; without it images of the trained size.
            known: (b or 1, c, …grid), the tokenizer's latents, to be kept where the mask says so.
            mask: bool, (b or 1, 1 or c, …grid), True where `known` is to be kept.

        Raises:
            ValueError: as `sample`; one of known and mask without the other, or of another shape.
        """
        if grid is None:
            grid = self.tokenizer.latent_shape(1, self.settings.height, self.settings.width)[1:]
        if len(grid) not in (2, 3) or min(grid) < 1:
            raise ValueError(f"a grid is (h, w) or (t, h, w) of at least 1 each, found {tuple(grid)}")
        is_video = len(grid) == 3 and grid[0] > 1
        request = self._request(labels, (1, 1, 1), batch_size, options, is_video=is_video)
        count = len(request.labels)
        shape = (self.model.config.latent_channels, *grid)
        if (known is None) != (mask is None):
            raise ValueError("known latents and their mask go together: give both or neither")
        if known is not None and mask is not None:
            for name, given in (("known", known), ("mask", mask)):
                fits = given.ndim == len(shape) + 1 and given.shape[0] in (1, count)
                if not fits or given.shape[2:] != shape[1:] or given.shape[1] not in (shape[0], int(name == "mask")):
                    raise ValueError(f"{name} must be {(count, *shape)}, found {tuple(given.shape)}")
            known = self.normalize(known.float().to(self.device)).expand(count, *shape)
            mask = mask.to(self.device).expand(count, *shape)
        draw = _LatentDraw(self.model, request, len(request.batches))

        def make(batch: slice) -> Tensor:
            held = None if known is None or mask is None else (known[batch], mask[batch])
            return draw.latents(batch, shape, held)()

        return self.denormalize(self._in_batches(request, shape[1:], make))

    # --------------------------------------------------------------------------------------------------------- parts

    def _begin(
        self, request: Request[DiffusionSampling], grid: Grid, draws: int | None, latent_frames: int | None
    ) -> _LatentDraw:
        if request.size[0] > 1 and not self.model.config.temporal:
            raise ValueError(f"this model makes images only, so num_frames must be 1, found {request.size[0]}")
        return _LatentDraw(self.model, request, draws)

    def _fill(self, draw: _LatentDraw, batch: slice, tokens: Tensor, hidden: Tensor) -> Tensor:
        if not hidden.any():
            draw.skip()
            return tokens
        kept = (~hidden)[:, None].expand(tokens.shape)
        return draw.latents(batch, tuple(tokens.shape[1:]), (tokens, kept))()

    def _encode(self, frames: Tensor) -> Tensor:
        latents = self.tokenizer.encode(frames, check_range=False).latents
        return self.normalize(latents.float().to(self.device))

    def _decode(self, tokens: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Videos are decoded one by one: that takes more memory than sampling."""
        latents = self.denormalize(tokens)
        parts = latents.split(len(latents) if size[0] == 1 else 1)
        return torch.cat([self.tokenizer.decode(part, size) for part in parts])

    def _bytes_per_item(self, grid: tuple[int, ...], sampling: DiffusionSampling) -> int:
        """About what one block of the network keeps at once: input, norm, q, k, v, and the hidden layer twice."""
        config = self.model.config
        rows = 1 if sampling.guidance_scale == 1 else 2
        tokens = math.prod(grid) // config.patch_size**2
        channels = round(config.width * (5 + 2 * config.feedforward_multiple))
        return rows * tokens * channels * self.model.dtype.itemsize

    def _complete(self, sampling: DiffusionSampling) -> DiffusionSampling:
        objective = self.model.config.objective
        sampler = sampling.sampler or _DEFAULT_SAMPLER[objective]
        if SAMPLERS[sampler] != objective:
            fitting = ", ".join(name for name, kind in SAMPLERS.items() if kind == objective)
            raise ValueError(
                f"sampler {sampler!r} is not for models of objective {objective!r}; for this one use {fitting}"
            )
        channels = self.model.config.latent_channels
        if sampling.guided_channels is not None and sampling.guided_channels > channels:
            raise ValueError(
                f"guided_channels must be at most {channels}, the number of latent channels, found "
                f"{sampling.guided_channels}"
            )
        return dataclasses.replace(sampling, sampler=sampler, steps=sampling.steps or _DEFAULT_STEPS[sampler])
