"""Random numbers as hashes of what they are for: the same whatever else is computed, and no generator's state to save.

Tensors are int64, read as 64 bits without a sign.
"""

from __future__ import annotations

import hashlib

from torch import Tensor

GOLDEN = -7046029254386353131
"""2^64 over the golden ratio: its multiples are spread evenly."""


def key_of(*parts: object) -> int:
    """63 bits from any printable parts, such as a run's seed, a prompt's id and the number of a completion."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shift_right(x: Tensor, bits: int) -> Tensor:
    """With zeros from the left, where a shift of int64 has the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele et al. 2014)."""
    x = (x ^ shift_right(x, 30)) * -4658895280553007687
    x = (x ^ shift_right(x, 27)) * -7723592293110705685
    return x ^ shift_right(x, 31)


def counted(key: int | Tensor, positions: Tensor) -> Tensor:
    """SplitMix64 with a seed `key`: the 64 bits that it gives at these positions, from 0."""
    return mixed(key + (positions + 1) * GOLDEN)
