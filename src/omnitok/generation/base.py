"""What all generators share: labels, prompts, sizes, batches, seeds, progress, memory and streams.

A kind of generator adds how tokens are drawn: `Generator._begin` prepares a call, and the `Draw` that it gives makes
the codes or latents of a batch.
"""

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from omnitok.data.embeddings import TEXT
from omnitok.errors import OmnitokError
from omnitok.generation.memory import memory_guard
from omnitok.generation.request import ENDLESS, Grid, Labels, Options, Request, Run, as_video, split_batches
from omnitok.hub.folder import save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.text_encoders import TextEncoder, load_text_encoder
from omnitok.models.conditions import make_conditions
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel
from omnitok.models.masked_model import MaskedModel
from omnitok.models.protocol import Tokenizer
from omnitok.models.sampling import choose_sampling, narrow
from omnitok.models.tokenizer import Publishable

Model = TypeVar("Model", LanguageModel, MaskedModel, DiffusionTransformer)


Draw = Callable[[slice, Tensor | None, Grid, int], Callable[[], Tensor]]
"""Gives what draws tokens (b, …) of a batch over a grid that begin with the latent frames of known ones; the last
argument is the number of the first drawn latent frame within its whole video. Given, not run, so that a sampler is few
calls away from `sample`."""


class Generator(Publishable, Generic[Model, Options]):
    """Images and videos from a model over the tokens of a tokenizer.

    Args:
        model, tokenizer: trained on one another, each on its device; put in `eval` mode.
        settings: class names, trained size, sampling defaults.

    Raises:
        OmnitokError: model, tokenizer and settings do not belong together.
    """

    sampling_type: type[Options]

    def __init__(self, model: Model, tokenizer: Tokenizer, settings: GeneratorSettings) -> None:
        self.model: Model = model.eval()
        self.tokenizer, self.settings = tokenizer.eval(), settings
        self._text_encoder: TextEncoder | None = None  # loaded with the first text of a model of its embeddings
        self._check_parts()
        if settings.classes and len(settings.classes) != model.config.num_classes:
            raise OmnitokError(
                f"the settings name {len(settings.classes)} classes, the model has {model.config.num_classes}"
            )
        try:
            self.sampling: Options = narrow(settings.sampling, self.sampling_type)
        except ValueError as error:
            raise OmnitokError(f"the sampling of the settings is not for this kind of generator: {error}") from error

    def __repr__(self) -> str:
        size = f"{self.settings.num_frames}x{self.settings.height}x{self.settings.width}"
        return f"{type(self).__name__}({self.model!r}, trained at {size}, tokenizer {self.settings.tokenizer!r})"

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder that `load_generator` takes, with the tokenizer in its subfolder `tokenizer`.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        return save_generator(self.model, self.settings, folder, self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    # ------------------------------------------------------------------------------------------------- what a kind adds

    any_class: int
    """The label id that stands for no class."""

    @abstractmethod
    def _check_parts(self) -> None:
        """Raise OmnitokError where model and tokenizer do not belong together."""

    @abstractmethod
    def _begin(self, request: Request[Options], grid: Grid, draws: int | None, latent_frames: int | None) -> Draw:
        """Prepare a call of so many draws (None: without end) of `latent_frames` in all, over at most `grid`."""

    @abstractmethod
    def _encode(self, frames: Tensor) -> Tensor:
        """Tokens (b, …, t, h, w) of frames (b, 3, T, H, W), on the model's device."""

    @abstractmethod
    def _decode(self, tokens: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Pixels (b, 3, *size) of tokens."""

    @abstractmethod
    def _bytes_per_item(self, grid: tuple[int, ...], sampling: Options) -> int:
        """About what drawing one item takes."""

    def _complete(self, sampling: Options) -> Options:
        """The options with the defaults that depend on the model.

        Raises:
            ValueError: options that this model does not take.
        """
        return sampling

    def _check_grid(self, grid: Grid, known: int, num_frames: int | None) -> None:
        """Raise ValueError where one draw over the grid, of which `known` latent frames are given, is too much."""

    def _prompt_limit(self, window: int) -> int:
        """Latent frames of a prompt that a stream's first window goes on from."""
        return window // 2

    # ------------------------------------------------------------------------------------------------------- pixels

    @torch.inference_mode()
    def sample(
        self,
        labels: Labels = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        prompt_frames: Tensor | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Sample images (b, 3, H, W), or videos (b, 3, T, H, W) where num_frames > 1, in [-1, 1].

        Arguments left None are those of the settings.

        Args:
            labels: labels or class names, one per item, or one for all prompts; None in it or instead of it is "any
                class".
            num_frames: frames of the result, given ones included; without it 1, or with a prompt the trained length.
            prompt_frames: (b, 3, T0, H, W) or (b, 3, H, W), which the result begins with, unchanged. Only they are
                encoded, as many of the last as make whole latent frames, so that what follows joins on to the last.
            batch_size: items sampled at once; without it all.
            options: the fields of `Run` (seed, indices, progress, compile), and those of `TokenSampling` or
                `DiffusionSampling`, by the kind of generator.

        Raises:
            ValueError: an unknown label, a size, length or option outside the model's, a prompt of another size.
            OmnitokError: too little memory, with what would fit.
        """
        if num_frames is None:
            num_frames = 1 if prompt_frames is None else self.settings.num_frames
        video = None if prompt_frames is None else as_video(prompt_frames, self.tokenizer.channels)
        size = self._size(num_frames, height, width, video)
        request = self._request(labels, size, batch_size, options, prompt=video)
        known, grid = self._grid(request.size, request.prompt)
        self._check_grid(grid, known, num_frames)
        draw = self._begin(request, grid, len(request.batches), grid[0] - known)
        parts = []
        for batch in request.batches:
            with memory_guard(batch.stop - batch.start, self._bytes_per_item(grid, request.sampling), self.device):
                walk, finish = self._extend(draw, batch, request.prompt, request.size)
                parts.append(finish(walk()))
        pixels = torch.cat(parts)
        return pixels.squeeze(2) if num_frames == 1 and request.prompt is None else pixels

    def continue_video(
        self,
        frames: Tensor,
        num_frames: int | None = None,
        labels: Labels = None,
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Frame prediction: videos (b, 3, num_frames, H, W) that begin with `frames` (b, 3, T0, H, W), unchanged.

        The same as `sample(labels, num_frames, prompt_frames=frames)`, which says the other arguments and errors, but
        height and width are the frames' own. For more frames than the model was trained on, see `stream_video`.
        """
        video = as_video(frames, self.tokenizer.channels)
        height = video.shape[3] if height is None else height
        width = video.shape[4] if width is None else width
        return self.sample(labels, num_frames, height, width, prompt_frames=video, **options)

    def stream_video(
        self,
        labels: Labels = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        frames: Tensor | None = None,
        window: int | None = None,
        method: Literal["ring", "feedback"] | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """Videos of any length in constant memory: pieces (b, 3, n, H, W) in [-1, 1], as they are made.

        Args:
            num_frames: frames in all, given ones included; None never ends.
            frames: (b, 3, T0, H, W) to go on from, of any length; the first piece is they, unchanged.
            window: latent frames that the model looks at; without it as many as it was trained on.
            method: "feedback" samples a whole window, encodes its last frames anew (half the window's latent frames)
                and goes on from them, as the paper does (Figure 8); everything the model sees is then as in training,
                but there may be seams. "ring" slides the window a latent frame at a time over one sequence, whose cache
                and decoder go on without a seam; it needs a language model with rotary positions and a causal
                tokenizer, and is then the default.

        Other arguments and errors as in `sample`; the arguments are checked at once, not with the first piece.
        """
        video = None if frames is None else as_video(frames, self.tokenizer.channels)
        size = self._size(ENDLESS if num_frames is None else num_frames, height, width, video)
        request = self._request(labels, size, None, options, prompt=video)
        _, h, w = self.tokenizer.latent_shape(1, *request.size[1:])
        window = self._window(window, h, w)
        return self._stream(request, (window, h, w), method)

    def _window(self, window: int | None, h: int, w: int) -> int:
        """Latent frames of a stream's window.

        Raises:
            ValueError: fewer than 2.
        """
        window = self.tokenizer.latent_shape(self.settings.num_frames, 1, 1)[0] if window is None else window
        if window < 2:
            raise ValueError(f"a window must have at least 2 latent frames, found {window}")
        return window

    def _stream(self, request: Request[Options], grid: Grid, method: str | None) -> Iterator[Tensor]:
        """The stream by the method asked for.

        Raises:
            ValueError: no such method for this model.
        """
        if method not in (None, "feedback"):
            raise ValueError(f"method must be 'feedback' for this model, found {method!r}")
        return self._feedback(request, grid)

    def _feedback(self, request: Request[Options], grid: Grid) -> Iterator[Tensor]:
        """The stream window by window; it counts its draws before the first."""
        tokenizer, end = self.tokenizer, request.size[0]
        given = 0 if request.prompt is None else request.prompt.shape[2]
        limit = self._prompt_limit(grid[0])
        first = tokenizer.num_frames(grid[0])
        if given:
            first += given - tokenizer.num_frames(min(self._latent_frames(given), limit))
        more = tokenizer.num_frames(grid[0]) - tokenizer.num_frames(grid[0] // 2)
        draws = None if end == ENDLESS else 1 + max(0, -(-(end - first) // more))
        draw = self._begin(request, grid, draws, None if draws is None else self._new_latent_frames(end, given))
        return self._windows(draw, request, grid, limit)

    @torch.inference_mode()
    def _windows(self, draw: Draw, request: Request[Options], grid: Grid, limit: int) -> Iterator[Tensor]:
        tokenizer, end, stride = self.tokenizer, request.size[0], self.tokenizer.downsample[0]
        everything, context, done, drawn = request.batches[0], request.prompt, 0, 0
        if context is not None:
            done = context.shape[2]
            yield context.to(self.tokenizer.device).float()
        while done < end:
            known = 0
            if context is not None:
                known = min(self._latent_frames(context.shape[2]), limit)
                context = context[:, :, -tokenizer.num_frames(known) :]
            new = self._draws_of_window(grid[0] - known, self._new_latent_frames(end, done))
            given = tokenizer.num_frames(known) if known else 0
            frames = given + new * stride if known else tokenizer.num_frames(new)
            size = (frames, *request.size[1:])
            with memory_guard(everything.stop, self._bytes_per_item(grid, request.sampling), self.device):
                walk, finish = self._extend(draw, everything, context, size, drawn or None)
                context = finish(walk())
            drawn = (drawn or known) + new
            piece = context[:, :, given:][:, :, : end - done]
            done += piece.shape[2]
            limit = max(1, grid[0] // 2)
            yield piece

    def _draws_of_window(self, new: int, needed: int) -> int:
        """Latent frames to draw of the `new` ones that a window has room for, where `needed` ones are left to make."""
        return new

    # --------------------------------------------------------------------------------------------------------- parts

    def _in_batches(self, request: Request[Options], grid: tuple[int, ...], make: Callable[[slice], Tensor]) -> Tensor:
        """What `make` gives for each batch of the request, joined."""
        parts = []
        for batch in request.batches:
            with memory_guard(batch.stop - batch.start, self._bytes_per_item(grid, request.sampling), self.device):
                parts.append(make(batch))
        return torch.cat(parts)

    def _extend(
        self,
        draw: Draw,
        batch: slice,
        prompt: Tensor | None,
        size: tuple[int, int, int],
        first_frame: int | None = None,
    ) -> tuple[Callable[[], Tensor], Callable[[Tensor], Tensor]]:
        """What draws a batch's tokens, and what makes videos (b, 3, *size) in [-1, 1] of them that begin with its part
        of the prompt (b, 3, T0, H, W).

        Args:
            first_frame: number of the first drawn latent frame, where the prompt is not the beginning.
        """
        first, grid = self._grid(size, prompt)
        if prompt is None:
            return draw(batch, None, grid, 0), lambda tokens: self._decode(tokens, size).float().clamp(-1, 1)
        given, shown = prompt[batch], self.tokenizer.num_frames(first)
        known = self._encode(given[:, :, -shown:])

        def finish(tokens: Tensor) -> Tensor:
            pixels = self._decode(tokens, (shown + size[0] - given.shape[2], *size[1:])).float().clamp(-1, 1)
            return torch.cat([given.to(pixels), pixels[:, :, shown:]], dim=2)

        return draw(batch, known, grid, first if first_frame is None else first_frame), finish

    def _grid(self, size: tuple[int, int, int], prompt: Tensor | None) -> tuple[int, Grid]:
        """Latent frames of the prompt, and the grid of a video of `size` that begins with it."""
        t, h, w = self.tokenizer.latent_shape(*size)
        if prompt is None:
            return 0, (t, h, w)
        known = self._latent_frames(prompt.shape[2])
        return known, (known + self._new_latent_frames(size[0], prompt.shape[2]), h, w)

    def _latent_frames(self, frames: int) -> int:
        """Whole latent frames at the end of `frames` frames."""
        return (frames - self.tokenizer.num_frames(1)) // self.tokenizer.downsample[0] + 1

    def _new_latent_frames(self, frames: int, given: int) -> int:
        """Latent frames that bring `given` frames to `frames`."""
        if not given:
            return self.tokenizer.latent_shape(frames, 1, 1)[0]
        return math.ceil((frames - given) / self.tokenizer.downsample[0])

    def _request(
        self,
        labels: Labels,
        size: tuple[int, int, int],
        batch_size: int | None,
        options: dict[str, Any],
        *,
        prompt: Tensor | None = None,
        prompts: int | None = None,
        is_video: bool | None = None,
    ) -> Request[Options]:
        """A call's arguments, checked.

        Args:
            prompts: number of given images or videos, where they are not the prompt; None: nothing is given.
            is_video: what the options are for; None: as the size says.
        """
        run = {field.name: options.pop(field.name) for field in fields(Run) if field.name in options}
        sampling = self.options(options, size[0] > 1 if is_video is None else is_video)
        ids, others, run["indices"] = self._items(
            labels, run.pop("negative", None), run.get("indices"), prompts if prompt is None else len(prompt)
        )
        batches = split_batches(len(ids), batch_size)
        return Request(labels=ids, others=others, batches=batches, prompt=prompt, size=size, sampling=sampling, **run)

    def options(self, given: Mapping[str, Any], is_video: bool) -> Options:
        """The sampling options of a call: what was asked for, then what the settings say, then the defaults.

        Raises:
            TypeError: an unknown name, with the accepted ones.
            ValueError: a value out of bounds, or one that this model does not take.
        """
        sampling = self._complete(choose_sampling(self._complete(self.sampling), given, is_video))
        scale = sampling.guidance_scale
        if scale != 1 and not self.model.config.is_conditional:
            raise ValueError(f"an unconditional model cannot be guided: guidance_scale must be 1, found {scale}")
        return sampling

    def _items(
        self, labels: Labels, negative: Any, indices: Sequence[int] | None, prompts: int | None
    ) -> tuple[Tensor, Tensor, list[int]]:
        """The label id or the condition of each item, those that guidance leads away from, and the items' indices.

        Args:
            prompts: number of given images or videos; None: nothing is given.

        Raises:
            ValueError: numbers that do not match, no items, labels that are no class.
        """
        condition = self.model.config.condition
        if isinstance(labels, Tensor) and condition is None:
            labels = labels.tolist()
        items: list[Any]
        if (
            labels is None
            or isinstance(labels, int | Integral | str)
            or (isinstance(labels, Tensor) and labels.ndim < 3)
        ):
            items = [labels] * (prompts or (1 if indices is None else len(indices)))
        else:
            items = list(labels)
        if prompts is not None and len(items) == 1:
            items = items * prompts
        count = len(items)
        counts = {"given images or videos": prompts, "indices": None if indices is None else len(indices)}
        for what, other in counts.items():
            if other not in (None, count):
                raise ValueError(f"{count} labels and {other} {what} do not match")
        if count == 0:
            raise ValueError("no items were asked for: labels are empty")
        if condition is None:
            ids = torch.tensor([self._class_id(label) for label in [*items, negative]])
        else:
            ids = make_conditions(condition, self._embedded([*items, negative]))
        ids = ids.to(self.device)
        return ids[:-1], ids[-1:].expand_as(ids[:-1]), [int(i) for i in (range(count) if indices is None else indices)]

    def _embedded(self, items: list[Any]) -> list[Any]:
        """The items, texts among them as the embeddings of the text encoder that the settings name, where they do."""
        name = self.settings.embeddings
        texts = [item for item in items if isinstance(item, str)]
        if not texts or not name.startswith(TEXT):
            return items
        if self._text_encoder is None:
            sha256 = self.settings.embeddings_sha256
            self._text_encoder = load_text_encoder(name.removeprefix(TEXT), self.device, sha256=sha256)
        embedded = iter(self._text_encoder.encode(texts))
        return [next(embedded) if isinstance(item, str) else item for item in items]

    def _class_id(self, label: Any) -> int:
        classes = self.model.config.num_classes
        if isinstance(label, str):
            label = self.settings.label_of(label)
        if label is None or label == -1:
            return self.any_class
        if isinstance(label, bool) or not isinstance(label, Integral) or not 0 <= int(label) < classes:
            accepted = f"labels lie in [0, {classes - 1}]" if classes else "this model has no classes"
            raise ValueError(f"label {label} is out of range: {accepted}")
        return int(label)

    def _size(self, frames: int, height: int | None, width: int | None, given: Tensor | None) -> tuple[int, int, int]:
        """(T, H, W) of the result; height and width are those of the settings where they are None.

        Raises:
            ValueError: sizes below 1, given frames of another size, too few, or as many as are asked for.
        """
        height = self.settings.height if height is None else height
        width = self.settings.width if width is None else width
        if min(frames, height, width) < 1:
            raise ValueError(f"frames, height and width must be at least 1, found {(frames, height, width)}")
        if given is not None:
            if tuple(given.shape[3:]) != (height, width):
                raise ValueError(
                    f"the given frames are {given.shape[3]} x {given.shape[4]} pixels, the model's are {height} x "
                    f"{width}: resize them, or say height= and width="
                )
            if given.shape[2] < (first := self.tokenizer.num_frames(1)):
                raise ValueError(f"{given.shape[2]} frames are given, fewer than the {first} that are coded at once")
            if given.shape[2] >= frames:
                raise ValueError(f"{given.shape[2]} frames are given, so num_frames must be larger, found {frames}")
        return frames, height, width
