"""Mistakes planted in the backward of a block, for `fb.compare` to find."""

import functools


def enlarged(backward, i):
    """The backward with its cotangent `i` 1 % too large; with None, as it is."""

    @functools.wraps(backward)
    def wrong(residuals, cotangents, **options):
        found = list(backward(residuals, cotangents, **options))
        if i is not None:
            found[i] = found[i] * 1.01
        return tuple(found)

    return wrong
