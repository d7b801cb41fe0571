"""What residual and product quantization share: several codebooks, whose codes are the digits of one number."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from omnitok.checked import NotNegative, Share, checked
from omnitok.models.bottlenecks.base import Quantizer, check_code_count, digits, from_digits, sample_generators
from omnitok.models.bottlenecks.codebook import Codebook
from omnitok.models.config import Size

Sizes = Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]


@checked
class SeveralCodebooksConfig:
    """What residual and product quantization configure alike.

    Attributes:
        codebook_sizes: codes of each codebook; their product is the number of codes.
        decay: of the moving averages.
        restart_threshold: rows used less than this share of the mean use are restarted; 0 switches it off.
    """

    is_discrete: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("commitment", "entropy")
    learning: ClassVar[tuple[str, ...]] = ("decay", "restart_threshold")

    latent_channels: Size = 8
    codebook_sizes: Sizes = (128, 64)
    decay: Share = 0.99
    restart_threshold: NotNegative = 0.1

    @model_validator(mode="after")
    def _check_sizes(self) -> "SeveralCodebooksConfig":
        check_code_count(self.codebook_sizes, "codebook_sizes")
        return self


class SeveralCodebooks(Quantizer):
    """A position has a code of each of `books`, combined to one number, of which the first book's counts 1.

    Language models, token shards and metrics then need to know nothing of codebooks, and a language model predicts all
    of a position at once. The product of the sizes stays below 2^31 for this; where a language model is to be trained,
    it should be what a softmax can hold. `omnitok.models.bottlenecks.base.digits` takes a code apart.

    Args:
        width: channels of the features.
        config: has `latent_channels`, `codebook_sizes`, `decay` and `restart_threshold`.
        make_book: makes the codebook of that number and size.
    """

    books: Sequence[Codebook]

    def __init__(self, width: int, config: Any, make_book: Callable[[int, int], Codebook]) -> None:
        super().__init__(width, config, math.prod(config.codebook_sizes))
        self.code_bases = config.codebook_sizes
        books = [make_book(number, size) for number, size in enumerate(config.codebook_sizes)]
        self.books = cast("Sequence[Codebook]", nn.ModuleList(books))

    def part(self, z: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """What the next book codes of z (n, c), the books before it having given `rows`: (n, channels of the book)."""
        raise NotImplementedError

    def joined(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Ever closer approximations (..., c) of z, from the `rows` (..., channels) that the books gave."""
        raise NotImplementedError

    def codes_of(self, z: Tensor) -> Tensor:
        """The nearest codes of each z (..., c), combined: (...)."""
        return self._choose(z, None)[0]

    def assign(self, z: Tensor, seeds: Sequence[int] | None) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """As of every quantizer; in training mode each book learns and has statistics of its own."""
        return self._choose(z, sample_generators(seeds, len(z)) if self.training else None)

    def _choose(
        self, z: Tensor, generators: Sequence[torch.Generator] | None
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        flat = z.reshape(-1, self.latent_channels)
        codes, rows, statistics = list[Tensor](), list[Tensor](), dict[str, Tensor]()
        for number, book in enumerate(self.books):
            part = self.part(flat, rows)
            if generators is None:
                codes.append(book.nearest(part))
                rows.append(book.rows(codes[-1]))
            else:
                chosen, found, seen = book.learn(part, generators, self.config.decay, self.config.restart_threshold)
                codes.append(chosen)
                rows.append(found)
                statistics |= {f"{name}_{number}": value for name, value in seen.items()}
        combined = from_digits(torch.stack(codes, dim=-1), self.code_bases)
        return combined.reshape(z.shape[:-1]), [closer.reshape(z.shape) for closer in self.joined(rows)], statistics

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents of codes (...) -> (..., c)."""
        parts = digits(codes, self.code_bases).unbind(dim=-1)
        return self.joined([book.rows(part) for book, part in zip(self.books, parts, strict=True)])[-1]

    def similarities(self, z: Tensor) -> list[Tensor]:
        """Negative squared distances (n, codes) of what each book codes of z (n, c) to its codes."""
        rows, scores = list[Tensor](), list[Tensor]()
        for book in self.books:
            scores.append(book.scores(self.part(z, rows)))
            rows.append(book.rows(scores[-1].argmax(dim=-1)))
        return scores
