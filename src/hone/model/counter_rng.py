"""Counter-based random numbers: hashes of a key and a position, independent of all other draws and without a state.

Tensors are int64, read as unsigned 64-bit numbers.
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
    """Logical right shift (int64's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele et al. 2014)."""
    x = (x ^ shift_right(x, 30)) * -4658895280553007687
    x = (x ^ shift_right(x, 27)) * -7723592293110705685
    return x ^ shift_right(x, 31)


def counted(key: int | Tensor, positions: Tensor) -> Tensor:
    """SplitMix64 with seed `key`: its 64-bit outputs at these positions, from 0."""
    return mixed(key + (positions + 1) * GOLDEN)
