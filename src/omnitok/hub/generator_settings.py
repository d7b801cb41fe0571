"""What a generator's folder says beside its weights: tokenizer, classes, trained size, sampling defaults."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from omnitok.checked import Positive, checked
from omnitok.models.config import Size
from omnitok.models.sampling import Sampling, read_sampling


@checked
class GeneratorSettings:
    """Facts about a trained generator that its weights do not tell.

    Attributes:
        tokenizer: name or path of the tokenizer whose codes or latents it was trained on.
        tokenizer_sha256: `omnitok.models.protocol.fingerprint` of that tokenizer; "" where not known.
        classes: names of the classes in the order of their labels; empty where they have no names, or there are none.
        height, width: pixels of the images and videos it was trained on.
        num_frames: frames of its videos; 1 for a generator of images.
        sampling: defaults of `sample`'s arguments; also a mapping of their names to values, as a file gives it.
        fps: frames a second of its videos; None where not known.
        embeddings: of a model of embeddings, what these are: "files", "audio" (`omnitok.data.log_mel`), or "text:NAME"
            with the folder or hub id of a text encoder; "" where not known.
        embeddings_sha256: of that text encoder's weights.
        latent_scale: what a diffusion model's latents were multiplied with (0.18215 for the released ones); None where
            they were normalised per channel with the tokenizer's `latent_mean` and `latent_std`.
    """

    tokenizer: Annotated[str, Field(min_length=1)]
    tokenizer_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    classes: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    height: Size = 256
    width: Size = 256
    num_frames: Size = 1
    sampling: Annotated[Sampling, BeforeValidator(read_sampling)] = Sampling()
    fps: Positive | None = None
    latent_scale: Positive | None = None
    embeddings: str = ""
    embeddings_sha256: str = ""

    @model_validator(mode="after")
    def _check(self) -> "GeneratorSettings":
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"classes must differ from one another, found {twice!r} twice")
        return self

    @property
    def frame_rate(self) -> float:
        """Frames per second to write its videos at: `fps`, or 8 where not known."""
        return self.fps or 8.0

    def label_of(self, name: str) -> int:
        """The label of a class name.

        Raises:
            ValueError: an unknown name, with some known ones.
        """
        if name in self.classes:
            return self.classes.index(name)
        known = ", ".join(self.classes[:20]) + (" …" if len(self.classes) > 20 else "")
        raise ValueError(f"unknown class {name!r}; " + (f"known are {known}" if known else "the classes have no names"))
