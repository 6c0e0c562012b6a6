"""Shuffling without memory: the position of each element is computed from a counter, in plain integer arithmetic.

A Feistel network is a bijection of n-bit integers whatever its round function is; applying it until it
lands below `size` (cycle walking) makes it a bijection of 0 ... size - 1. Nothing is stored, any part can be computed
on its own, and no random generator of a library is involved, so the order never changes with a version.

Sources: M. Luby and C. Rackoff, How to Construct Pseudorandom Permutations from Pseudorandom Functions, 1988;
J. Black and P. Rogaway, Ciphers with Arbitrary Finite Domains, 2002 (cycle walking); G. Steele, D. Lea and C. Flood,
Fast Splittable Pseudorandom Number Generators, 2014 (the mixing function).
"""

import functools
from collections.abc import Callable

import numpy as np

from fnbackprop.experiment import ExperimentError

ROUNDS = 12  # with fewer, the orders of a handful of elements are not equally likely
KEPT_WHOLE = 1 << 18
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def epochs(size: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """The function `chosen(step)`: the indices of a batch; each epoch goes through 0 ... size - 1 in its own order.

    An epoch has `size // batch_size` steps, all of `batch_size`: the few at the end of its order are left out.

    Raises:
      ExperimentError: a batch is empty, or larger than all there is.
    """
    if not 1 <= batch_size <= size:
        raise ExperimentError(f"batch_size must be from 1 to {size}, the number of examples, not {batch_size}.")
    per_epoch = size // batch_size

    def chosen(step: int) -> np.ndarray:
        epoch, index = divmod(step, per_epoch)
        places = slice(index * batch_size, (index + 1) * batch_size)
        if size <= KEPT_WHOLE:
            return _whole_order(size, seed, epoch)[places]
        return permute(np.arange(places.start, places.stop), size, seed, epoch)

    return chosen


@functools.lru_cache(maxsize=4)
def _whole_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """An epoch's order at once: of a small data set it takes less time than the parts."""
    return permute(np.arange(size), size, seed, epoch)


def permute(indices: np.ndarray, size: int, *counters: int) -> np.ndarray:
    """The images of these indices under the permutation of 0 ... size - 1 that `counters` selects.

    Args:
      indices: integers from 0 to size - 1, of any shape.
      size: how many elements are permuted, at least 1.
      counters: integers of at least 0 that choose the permutation, for instance (seed, epoch).

    Returns:
      int64 of the shape of `indices`.
    """
    keys = [np.uint64(mix(*counters, number)) for number in range(ROUNDS)]
    bits = (size - 1).bit_length()
    places = _feistel(np.asarray(indices).astype(np.uint64), bits, keys)
    while (outside := places >= size).any():  # less than half of them, each time
        places[outside] = _feistel(places[outside], bits, keys)
    return places.astype(np.int64)


def mix(*counters: int) -> int:
    """One well-mixed 64-bit number from several."""
    mixed = 0
    for counter in counters:
        mixed = _splitmix(mixed + counter * _GOLDEN + _GOLDEN & _MASK)
    return mixed


def _splitmix(x: int) -> int:
    x = (x ^ x >> 30) * _FIRST & _MASK
    x = (x ^ x >> 27) * _SECOND & _MASK
    return x ^ x >> 31


def _feistel(x: np.ndarray, bits: int, keys: list[np.uint64]) -> np.ndarray:
    """In turns, one half of the bits is XORed with a function of the other half: each turn can be undone."""
    lower = np.uint64((1 << bits // 2) - 1)
    upper = np.uint64((1 << bits) - 1) ^ lower
    for number, key in enumerate(keys):
        read, written = (lower, upper) if number % 2 else (upper, lower)
        mixed = ((x & read) ^ key) * np.uint64(_FIRST)  # wraps around, as unsigned integers do
        mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(_SECOND)
        x = x ^ (mixed ^ mixed >> np.uint64(32)) & written
    return x
