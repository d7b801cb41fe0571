"""Generators that make a part of an image or a video, given the rest: holes, margins, frames between two."""

from abc import abstractmethod
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.errors import OmnitokError
from omnitok.generation.base import Generator, Model
from omnitok.generation.request import Grid, Labels, Options, as_video
from omnitok.models.encoding import check_pixels
from omnitok.models.language_model import LanguageModel
from omnitok.models.masked_model import MaskedModel

CodeModel = TypeVar("CodeModel", LanguageModel, MaskedModel)


class Filler(Generator[Model, Options]):
    """What all kinds of generators make of a part of the pixels; a kind adds how tokens are drawn given others."""

    @abstractmethod
    def _fill(self, draw: Any, batch: slice, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Tokens (b, …, t, h, w) of a batch with those drawn anew that are hidden (b, t, h, w), the others unchanged;
        with none hidden nothing is drawn. Progress counts all of the batch as done.

        Args:
            draw: what `_begin` gave.
        """

    def takes(self, height: int, width: int) -> bool:
        """Whether images of this size are no larger than what the model is made for."""
        return height <= self.settings.height and width <= self.settings.width

    @torch.inference_mode()
    def inpaint(
        self, pixels: Tensor, mask: Tensor, labels: Labels = None, *, batch_size: int | None = None, **options: Any
    ) -> Tensor:
        """Fill holes in images (b, 3, H, W) or videos (b, 3, T, H, W) in [-1, 1]; the rest comes back unchanged: the
        pixels outside the holes are pasted over what is decoded.

        Args:
            mask: bool, (b or 1, 1, …) over the pixels' own height, width and frames: True where to fill. What lies
                there does not matter. A token is drawn anew where any of its pixels is to be filled. Where the mask is
                True nowhere, nothing is drawn.

        Returns:
            The pixels' own shape. Other arguments and errors as in `sample`.
        """
        video = as_video(pixels, self.tokenizer.channels, "pixels")
        accepted = (1, *pixels.shape[2:])
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape[1:]) != accepted:
            found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"the mask must be boolean of shape (b, {', '.join(map(str, accepted))}), found {found}")
        if mask.shape[0] not in (1, len(pixels)):
            raise ValueError(f"{len(pixels)} items and {mask.shape[0]} masks do not match")
        mask = mask.expand(len(pixels), *accepted)
        if pixels.ndim == 4:
            return self._filled(video, mask.unsqueeze(2), labels, batch_size, options).squeeze(2)
        return self._filled(video, mask, labels, batch_size, options)

    def outpaint(
        self, pixels: Tensor, padding: int | tuple[int, int, int, int], labels: Labels = None, **options: Any
    ) -> Tensor:
        """Images or videos with margins made around them: (b, 3, …, top + H + bottom, left + W + right).

        Args:
            pixels: (b, 3, H, W) or (b, 3, T, H, W) in [-1, 1], which come back unchanged.
            padding: pixels to add: (left, right, top, bottom), or as many on all sides.

        Raises:
            ValueError: padding below 0; else as in `inpaint`.
        """
        sides = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(sides) != 4 or min(sides) < 0:
            raise ValueError(f"padding must be 0 or more: one number, or left, right, top and bottom, found {padding}")
        video = as_video(pixels, self.tokenizer.channels, "pixels")
        mask = F.pad(torch.zeros_like(video[:, :1], dtype=torch.bool), sides, value=True)
        wide = F.pad(video, sides)
        if pixels.ndim == 4:
            wide, mask = wide.squeeze(2), mask.squeeze(2)
        return self.inpaint(wide, mask, labels, **options)

    @torch.inference_mode()
    def interpolate(
        self,
        first: Tensor,
        last: Tensor,
        num_frames: int | None = None,
        labels: Labels = None,
        *,
        batch_size: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Videos (b, 3, num_frames, H, W) that begin with `first` and end with `last`, both unchanged.

        The tokenizer codes several frames at once. Where `last` begins within such a group, its first frame stands for
        the group's frames before it, so that these hardly differ from it.

        Args:
            first, last: (b, 3, H, W), or (b, 3, T, H, W) with the motion at either end.
            num_frames: frames in all; without it the trained length.

        Raises:
            ValueError: sizes that differ, no frame between them; else as in `sample`.
        """
        start, end = (as_video(x, self.tokenizer.channels, "first and last") for x in (first, last))
        for video in (start, end):
            check_pixels(video, check_range=False, channels=self.tokenizer.channels)
        if start.shape[:2] != end.shape[:2] or start.shape[3:] != end.shape[3:]:
            raise ValueError(
                f"first and last must be alike but for their frames, found {tuple(start.shape)} and {tuple(end.shape)}"
            )
        count = self.settings.num_frames if num_frames is None else num_frames
        given, end_frame = start.shape[2], count - end.shape[2]
        known = self._latent_frames(given)
        least = self.tokenizer.num_frames(known + 1) + end.shape[2]
        if count < least:
            raise ValueError(
                f"num_frames must be at least {least}, so that latent frames lie between the {given} and "
                f"{end.shape[2]} frames given, found {count}"
            )
        steps = torch.linspace(0, 1, end_frame - given + 2)[1:-1].to(start)
        video = torch.cat([start, torch.lerp(start[:, :, -1:], end[:, :, :1], steps[:, None, None]), end], dim=2)
        mask = torch.zeros_like(video[:, :1], dtype=torch.bool)
        mask[:, :, given:end_frame] = True
        t, h, w = self.tokenizer.latent_shape(*video.shape[2:])
        shared = self.tokenizer.latent_shape(end_frame + 1, 1, 1)[0] - 1  # the latent frame that `last` begins in
        video[:, :, max(given, self.tokenizer.num_frames(shared)) : end_frame] = end[:, :, :1]
        hidden = torch.zeros(1, t, h, w, dtype=torch.bool)
        hidden[:, known:shared] = True
        return self._filled(video, mask, labels, batch_size, options, hidden)

    # --------------------------------------------------------------------------------------------------------- parts

    def _filled(
        self,
        video: Tensor,
        mask: Tensor,
        labels: Labels,
        batch_size: int | None,
        options: dict[str, Any],
        hidden: Tensor | None = None,
    ) -> Tensor:
        """`inpaint` of videos (b, 3, T, H, W) under a mask (b, 1, T, H, W).

        Args:
            hidden: (b or 1, t, h, w) tokens to draw, where it is not those that hold any hole; what lies in the holes
                then stays for the encoder to see.
        """
        size = (video.shape[2], video.shape[3], video.shape[4])
        request = self._request(labels, size, batch_size, options, prompts=len(video))
        grid = self.tokenizer.latent_shape(*size)
        self._check_grid(grid, 0, size[0])
        draw = self._begin(request, grid, len(request.batches), grid[0])
        if hidden is None:
            video, hidden = _without(video, mask), self._latent_mask(mask)
        seen, tokens_to_draw = video, hidden.expand(len(video), *grid).to(self.device)

        def make(batch: slice) -> Tensor:
            tokens = self._fill(draw, batch, self._encode(seen[batch]), tokens_to_draw[batch])
            return self._decode(tokens, size).float().clamp(-1, 1)

        filled = self._in_batches(request, grid, make)
        return torch.where(mask.to(filled.device), filled, video.to(filled))

    def _latent_mask(self, holes: Tensor) -> Tensor:
        """holes (b, 1, T, H, W) -> which tokens (b, t, h, w) hold any of them."""
        patch, tokenizer = self.tokenizer.downsample, self.tokenizer
        t, h, w = tokenizer.latent_shape(*holes.shape[2:])
        full = (w * patch[2], h * patch[1], tokenizer.num_frames(t))
        missing = [n for side, whole in zip(holes.shape[:1:-1], full, strict=True) for n in (0, whole - side)]
        padded = F.pad(holes.float(), missing, mode="replicate")
        # The first latent frame may stand for the first frame alone, which then fills it.
        unseen = padded[:, :, :1].expand(-1, -1, patch[0] - tokenizer.num_frames(1), -1, -1)
        return F.max_pool3d(torch.cat([unseen, padded], dim=2), patch).squeeze(1) > 0


class CodeGenerator(Filler[CodeModel, Options]):
    """What generators over codes have in common."""

    any_class = -1

    def _check_parts(self) -> None:
        tokenizer = self.tokenizer
        if not tokenizer.is_discrete:
            raise OmnitokError("the tokenizer is a VAE, which has no codes for this kind of model")
        if tokenizer.vocab_size != self.model.config.codebook_size:
            raise OmnitokError(
                f"the tokenizer has {tokenizer.vocab_size} codes, the model was trained on "
                f"{self.model.config.codebook_size}: they do not belong together"
            )

    def takes(self, height: int, width: int) -> bool:
        """Whether the grid of an image of this size is within the model's."""
        try:
            self._check_grid(self.tokenizer.latent_shape(1, height, width), 0, None)
        except ValueError:
            return False
        return True

    @torch.inference_mode()
    def sample_codes(
        self,
        labels: Labels = None,
        grid: Grid | None = None,
        *,
        prompt_codes: Tensor | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Sample codes (b, t, h, w); other arguments and errors as in `sample`.

        Args:
            grid: (t, h, w) of the result; without it one latent frame of the trained size.
            prompt_codes: (b, t0, h, w) that the result begins with.
        """
        size = (1, self.settings.height, self.settings.width)
        grid = self.tokenizer.latent_shape(*size) if grid is None else grid
        prompts, known = (None, 0) if prompt_codes is None else prompt_codes.shape[:2]
        request = self._request(labels, size, batch_size, options, prompts=prompts, is_video=grid[0] > 1)
        if prompt_codes is not None and prompt_codes.shape[2:] != grid[1:]:
            raise ValueError(f"prompt codes are {tuple(prompt_codes.shape[2:])}, asked for is a grid of {grid[1:]}")
        self._check_grid(grid, known, None)
        draw = self._begin(request, grid, len(request.batches), grid[0] - known)

        def make(batch: slice) -> Tensor:
            return draw(batch, None if prompt_codes is None else prompt_codes[batch].to(self.device), grid, known)()

        return self._in_batches(request, grid, make)

    def _check_grid(self, grid: Grid, known: int, num_frames: int | None) -> None:
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

    def _window(self, window: int | None, h: int, w: int) -> int:
        most = self.model.config.max_frames(h, w)
        window = most if window is None else window
        if not 2 <= window <= most:
            raise ValueError(
                f"the window must be of 2 latent frames to the {most} that the context holds, found {window}"
            )
        return window

    def _encode(self, frames: Tensor) -> Tensor:
        codes = self.tokenizer.encode(frames, check_range=False).codes  # bright ones are no mistake
        assert codes is not None
        return codes.to(self.device)

    def _decode(self, tokens: Tensor, size: tuple[int, int, int]) -> Tensor:
        return self.tokenizer.decode_codes(tokens, size)


def _without(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pixels with the holes painted in the mean colour of the rest of their image or video."""
    rest = torch.where(mask, torch.zeros_like(pixels), pixels)  # whatever is there, NaN included
    count = (~mask).flatten(1).sum(1).clamp_min(1)[:, None]  # b 1
    mean = rest.flatten(2).sum(2) / count  # b 3
    return torch.where(mask, mean.reshape(*mean.shape, *[1] * (pixels.ndim - 2)), rest)
