"""What a generator's folder says beside its weights: tokenizer, classes, trained size, sampling defaults."""

import math
from dataclasses import dataclass, field

from omnitok.models.sampling import Sampling, read_sampling


@dataclass(frozen=True)
class GeneratorSettings:
    """Facts about a trained generator that its weights do not tell.

    Attributes:
        tokenizer: name or path of the tokenizer whose codes or latents it was trained on.
        tokenizer_sha256: `omnitok.hub.folder.fingerprint` of that tokenizer; "" where not known.
        classes: names of the classes in the order of their labels; empty where they have no names, or there are none.
        height, width: pixels of the pictures and clips it was trained on.
        num_frames: frames of its clips; 1 for a generator of pictures.
        sampling: defaults of `sample`'s arguments; also a mapping of their names to values, as a file gives it.
        fps: frames a second of its clips; None where not known.
        latent_scale: what a diffusion model's latents were multiplied with (0.18215 for the released ones); None where
            they were normalised per channel with the tokenizer's `latent_mean` and `latent_std`.
    """

    tokenizer: str
    tokenizer_sha256: str = ""
    classes: tuple[str, ...] = ()
    height: int = 256
    width: int = 256
    num_frames: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    fps: float | None = None
    latent_scale: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tokenizer, str) or not self.tokenizer:
            raise ValueError(f"tokenizer must be a name or path, found {self.tokenizer!r}")
        sha256 = self.tokenizer_sha256
        if not isinstance(sha256, str) or (sha256 and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef"))):
            raise ValueError(f"tokenizer_sha256 must be 64 hexadecimal digits or empty, found {sha256!r}")
        object.__setattr__(self, "classes", tuple(self.classes))  # JSON gives lists
        if not all(isinstance(name, str) and name for name in self.classes):
            raise ValueError(f"classes must be names, found {self.classes!r}")
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"classes must differ from one another, found {twice!r} twice")
        for name in ("height", "width", "num_frames"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}")
        try:
            object.__setattr__(self, "sampling", read_sampling(self.sampling))
        except ValueError as error:
            raise ValueError(f"sampling: {error}") from error
        if self.fps is not None and (isinstance(self.fps, bool) or not 0 < self.fps < math.inf):
            raise ValueError(f"fps must be positive or None, found {self.fps!r}")
        scale = self.latent_scale
        if scale is not None and (isinstance(scale, bool) or not 0 < scale < math.inf):
            raise ValueError(f"latent_scale must be positive or None, found {scale!r}")

    def label_of(self, name: str) -> int:
        """The label of a class name.

        Raises:
            ValueError: an unknown name, with some known ones.
        """
        if name in self.classes:
            return self.classes.index(name)
        known = ", ".join(self.classes[:20]) + (" …" if len(self.classes) > 20 else "")
        raise ValueError(f"unknown class {name!r}; " + (f"known are {known}" if known else "the classes have no names"))
