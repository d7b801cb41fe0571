"""CLIPScore (Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", 2021).

The weights are the user's: a folder or a repository of the hub with a CLIP model of transformers (extra `hf`).
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.errors import CheckpointError, MissingExtraError, OmnitokError, describe
from omnitok.hub.header import CONFIG_NAME, read_json
from omnitok.hub.text_encoders import load_pretrained, model_folder, weights_sha256
from omnitok.metrics.pixels import to_float_pixels

PROMPT = "A photo depicts "
"""Before every text, as in the paper."""

WEIGHT = 2.5

# Of the pixels of CLIP's training (Radford et al., 2021), where the model's preprocessor does not say others.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PREPROCESSOR = "preprocessor_config.json"


class ClipScore:
    """2.5 max(cos(image, text), 0) of the embeddings of a CLIP model; 0 to 2.5, and about 0.6 to 0.9 of good captions.

    Attributes:
        name: folder or hub id.
        sha256: of the weights.
        size: pixels per side that images are brought to.
        max_length: tokens of the longest text; what is beyond is cut, as the authors do, with a warning.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, mean: Tensor, std: Tensor, sha256: str) -> None:
        self.name, self.sha256 = name, sha256
        self.size = int(model.config.vision_config.image_size)
        self.max_length = int(model.config.text_config.max_position_embeddings)
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer
        self._mean, self._std = mean[:, None, None], std[:, None, None]
        self._texts: dict[str, Tensor] = {}

    def __call__(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """The scores (n,) of images (n, 3, H, W), or of videos (n, 3, T, H, W) the means over their frames.

        Pixels are uint8 or float in [-1, 1]; the shorter side is resized (bicubic, antialiased), the centre cropped.
        """
        if pixels.ndim == 5:
            each = [
                self(video.transpose(0, 1), [text] * video.shape[1]) for video, text in zip(pixels, texts, strict=True)
            ]
            return torch.stack([scores.mean() for scores in each])
        images, words = self.embed_images(pixels), torch.stack([self._embed_text(text) for text in texts])
        return WEIGHT * F.cosine_similarity(images, words).clamp(min=0)

    @torch.no_grad()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """Images (n, 3, H, W) → (n, d), not normalised."""
        x = (to_float_pixels(pixels, "CLIPScore") + 1) / 2
        short = min(x.shape[-2:])
        if short != self.size:
            height, width = (max(self.size, round(side * self.size / short)) for side in x.shape[-2:])
            x = F.interpolate(x, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((side - self.size) // 2 for side in x.shape[-2:])
        x = x[..., top : top + self.size, left : left + self.size]
        x = ((x - self._mean) / self._std).to(self._model.device)
        return self._model.get_image_features(pixel_values=x).pooler_output.float().cpu()

    @torch.no_grad()
    def _embed_text(self, text: str) -> Tensor:
        if text not in self._texts:
            ids = list(self._tokenizer(PROMPT + text, truncation=False, verbose=False)["input_ids"])
            if len(ids) > self.max_length:
                told = f"{self.name}: a text is cut to {self.max_length} tokens: {describe(text, 60)!r}"
                warnings.warn(told, stacklevel=3)
                ids = [*ids[: self.max_length - 1], ids[-1]]  # the last token is where CLIP looks
            tokens = torch.tensor([ids], device=self._model.device)
            features = self._model.get_text_features(input_ids=tokens, attention_mask=torch.ones_like(tokens))
            self._texts[text] = features.pooler_output[0].float().cpu()
        return self._texts[text]


def load_clip_score(name: str | os.PathLike[str], device: torch.device | str = "cpu") -> ClipScore:
    """A CLIP model from a folder or a repository of the hub; safetensors only, see `omnitok.hub.text_encoders`.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: no such folder, another model, or weights or a tokenizer that are missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError.of("transformers") from error
    folder = model_folder(name)
    kind = read_json(folder / CONFIG_NAME).get("model_type")
    if kind != "clip":
        raise CheckpointError(f"{folder}: model_type is {describe(kind)}, where CLIPScore needs clip")
    model, tokenizer = load_pretrained(folder, transformers.CLIPModel, transformers.AutoTokenizer)
    fields = read_json(folder / _PREPROCESSOR) if (folder / _PREPROCESSOR).is_file() else {}
    try:
        mean, std = (
            torch.tensor(fields.get(key) or default, dtype=torch.float32).reshape(3)
            for key, default in (("image_mean", _MEAN), ("image_std", _STD))
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise OmnitokError(f"{folder / _PREPROCESSOR}: image_mean and image_std must be three numbers each") from error
    return ClipScore(str(name), model.to(device), tokenizer, mean, std, weights_sha256(folder))
