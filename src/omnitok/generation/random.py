"""Random numbers per item: what an item is made of depends on the seed and its index, not on the batch it is in.

Two kinds. Samplers that want normal noise draw it from one `torch.Generator` per item. Token sampling wants thousands
of numbers per step; drawing them from many generators would cost a kernel launch per item and step, so there they are a
hash of (seed, item, position, code): nothing to keep, the same on every device, and a stream can start anywhere.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK_32 = 2**32 - 1
_FACTORS = (0x85EBCA6B, 0xC2B2AE35)  # of `_mix_32`
_SPREAD, _OFFSET = 0x9E3779B1, 0x9E3779B9  # so that numbers and positions that begin at 0 are mixed well


def item_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One generator per item, a function of (seed, item index) only.

    Args:
        seed: any whole number.
        indices: the items' numbers, each in [0, 2^32).

    Raises:
        ValueError: an index outside that range.
    """
    return [torch.Generator().manual_seed(item_seed(seed, index)) for index in indices]


def item_seed(seed: int, index: int) -> int:
    """A 64-bit seed of an item. For one seed, different items differ in the lower 32 bits too.

    The generator of the CPU uses only those; with a plain hash, 50 000 items would hold two alike in one run of four.

    Raises:
        ValueError: an index outside [0, 2^32).
    """
    if not 0 <= index <= _MASK_32:
        raise ValueError(f"the index of an item must lie in [0, {_MASK_32}], found {index}")
    first, second, high = _words(seed)
    return high << 32 | _mix_32(_mix_32(index ^ first) ^ second)  # each step has an inverse, so no two indices meet


def item_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, one draw per item: (items, *shape), float32 on the CPU.

    Raises:
        ValueError: no generators.
    """
    if not generators:
        raise ValueError("random numbers were asked for no items")
    return torch.stack([torch.randn(tuple(shape), generator=g, dtype=torch.float32) for g in generators])


# ------------------------------------------------------------------------------------------------ numbers by position


def item_keys(seed: int, indices: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
    """Keys for `hashed_gumbel`, one per item: (items,) int64 in [0, 2^32).

    Raises:
        ValueError: an index outside [0, 2^32).
    """
    return torch.tensor([item_seed(seed, index) & _MASK_32 for index in indices], dtype=torch.int64, device=device)


def hashed_gumbel(keys: Tensor, position: int | Tensor, numbers: int | Tensor) -> Tensor:
    """Standard Gumbel noise for the sampling of one token: -log(-log u), u a hash of (key, position, number).

    Args:
        keys: (b,) from `item_keys`.
        position: of the token in its item's sequence, a number or a (1,) tensor (one compiled graph for all).
        numbers: (b, n), or how many of them, from 0.

    Returns:
        (b, n) float32, the same on every device up to the rounding of the logarithms.
    """
    if not isinstance(numbers, Tensor):
        numbers = torch.arange(numbers, device=keys.device)
    rows = _mix_32_tensor(_mix_32_tensor(keys.int()) ^ (torch.as_tensor(position) + _OFFSET).int())  # (b,)
    bits = _mix_32_tensor(_mix_32_tensor(numbers.int() * _signed(_SPREAD)) ^ rows[:, None])  # (b, n)
    # 1 - u is drawn: small values, which decide who wins, keep their precision in float32.
    complement = ((bits.long() & _MASK_32).float() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-complement.clamp(max=1 - 2.0**-24)))


def _words(seed: int) -> tuple[int, int, int]:
    digest = hashlib.sha256(str(int(seed)).encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8))  # type: ignore[return-value]


def _mix_32(x: int) -> int:
    """A permutation of the 32-bit numbers (the finaliser of MurmurHash3, by Austin Appleby, public domain)."""
    x = (x ^ x >> 16) * _FACTORS[0] & _MASK_32
    x = (x ^ x >> 13) * _FACTORS[1] & _MASK_32
    return x ^ x >> 16


def _mix_32_tensor(x: Tensor) -> Tensor:
    """`_mix_32` of the bits of every element; int32, whose products wrap around and whose shifts copy the sign."""
    x = (x ^ (x >> 16 & 0xFFFF)) * _signed(_FACTORS[0])
    x = (x ^ (x >> 13 & 0x7FFFF)) * _signed(_FACTORS[1])
    return x ^ (x >> 16 & 0xFFFF)


def _signed(x: int) -> int:
    """The number whose bits, as int32, are those of x in [0, 2^32)."""
    return x - 2**32 if x >= 2**31 else x
