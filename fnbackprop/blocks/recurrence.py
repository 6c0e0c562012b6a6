"""A recurrent layer over a sequence, whatever its cell: what the blocks of `lstm`, `gru` and `rnn` share.

    z_t = x_t w + b,    q_t = h_{t-1} r + b',    state_t = cell(z_t, q_t, state_{t-1}),    h the first of the state

Time is cut into chunks of as many steps as fill a product of matrices. In the forward the input's product of a chunk
is taken before its steps. In the backward only the state's cotangent goes from step to step; the cotangents of z and q
are kept for a chunk, and the weights' are products of them over all of its steps, added up in float32.

Shapes in this file: x (time, rows, inputs), w (inputs, gates), r (hidden, gates), b (gates,), parts of the state
(rows, hidden).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..trees import sum_dtype
from .block import Block, block
from .tiling import product

Array = jax.Array
State = tuple[Array, ...]
ROWS = 512  # of one product, steps times rows of x: more take longer on a CPU, and more memory


class Cell(NamedTuple):
    """One step, forward and backward.

    forward: `(z, q, state) -> (state, saved)`; backward: `(saved, h before, h after, dstate) -> (dz, dq, dstate)`,
    without what reaches the state before through q; plain: `(z, q, state) -> state`, the definition.
    """

    forward: Callable
    backward: Callable
    plain: Callable


def over_a_sequence(name: str, cell: Cell) -> Block:
    """The block `(x, w, b, r, b', state) -> (h of all steps, final state)`; b' may be None."""
    return block(_forward(cell), _backward(cell), plain=_plain(cell), name=name)


def _forward(cell: Cell) -> Callable:
    def forward(x, w, b, r, bias, state):
        def step(state, z):
            q = _with_bias(product("bh,hg->bg", state[0], r, x.dtype), bias)  # 2
            after, saved = cell.forward(z, q, state)  # 3
            return after, (after[0], saved)

        def chunk(state, x):
            z = _with_bias(product("tbi,ig->tbg", x, w, x.dtype), b)  # 1
            after, (h, saved) = lax.scan(step, state, z)
            return after, (h, saved, state[0])

        final, (h, saved, starts) = lax.scan(chunk, state, _in_chunks(x))
        h = _whole(h, x)
        return (h, final), (x, w, b, r, bias, h, saved, starts)

    return forward


def _backward(cell: Cell) -> Callable:
    def backward(residuals, cotangents, *, wanted):
        x, w, b, r, bias, h, saved, starts = residuals
        dh, dfinal = cotangents
        dtype, transposed = sum_dtype(x), r.T

        def step(dstate, at):
            dh, before, h, saved = at
            dz, dq, dstate = cell.backward(saved, before, h, (dstate[0] + dh, *dstate[1:]))  # through 3
            kept = dz, None if dq is dz else dq
            return (dstate[0] + product("bg,gh->bh", dq, transposed, x.dtype), *dstate[1:]), kept  # through 2

        def chunk(carry, at):
            dstate, sums = carry
            dh, x, h, saved, start = at
            before = jnp.concatenate([start[None], h[:-1]])  # (steps, rows, hidden)
            dstate, (dz, dq) = lax.scan(step, dstate, (dh, before, h, saved), reverse=True)
            dq = dz if dq is None else dq
            dr, dbias = product("tbh,tbg->hg", before, dq, dtype), _sum(dq, bias, dtype)  # through 2
            dw, db = product("tbi,tbg->ig", x, dz, dtype), _sum(dz, b, dtype)  # through 1
            dx = product("tbg,ig->tbi", dz, w, x.dtype) if wanted[0] else None
            return (dstate, jax.tree.map(lax.add, sums, (dw, db, dr, dbias))), dx

        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, dtype), (w, b, r, bias))
        at = (_in_chunks(dh), _in_chunks(x), _in_chunks(h), saved, starts)
        (dfirst, (dw, db, dr, dbias)), dx = lax.scan(chunk, (dfinal, zeros), at, reverse=True)
        return None if dx is None else _whole(dx, x), dw, db, dr, dbias, dfirst

    return backward


def _plain(cell: Cell) -> Callable:
    def plain(x, w, b, r, bias, state):
        def step(state, x):
            state = cell.plain(_with_bias(x @ w, b), _with_bias(state[0] @ r, bias), state)
            return state, state[0]

        final, h = lax.scan(step, state, x)
        return h, final

    return plain


def _with_bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)


def _sum(dy: Array, bias: Array | None, dtype: Any) -> Array | None:
    return None if bias is None else jnp.sum(dy, (0, 1), dtype=dtype)


def steps_at_once(time: int, rows: int) -> int:
    """Steps of a chunk: a divisor of the time; all of them where only small ones divide it."""
    most = max(ROWS // max(rows, 1), 1)
    best = max((n for n in range(1, min(time, most) + 1) if time % n == 0), default=1)
    return best if 4 * best >= min(time, most) else time


def _in_chunks(x: Array) -> Array:
    """(time, rows, ...) as (chunks, steps, rows, ...)."""
    steps = steps_at_once(*x.shape[:2])
    return x.reshape(x.shape[0] // steps, steps, *x.shape[1:])


def _whole(y: Array, x: Array) -> Array:
    return y.reshape(x.shape[0], *y.shape[2:])
