"""Layers of Flax and Equinox, solvers of Lineax, Optimistix and diffrax: the programs of `tests/interoperability`,
at operands that are drawn anew, and losses of whole models."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.interoperability import test_diffrax, test_equinox, test_flax, test_lineax, test_optimistix

from .table import Draw, LibraryProgram, definite, like, program, real


def near(tree: Any) -> Draw:
    """The numbers of a tree, each changed by up to a tenth of itself."""
    return lambda rng: jax.tree.map(lambda x: x * (1 + 0.1 * rng.uniform(-1, 1, np.shape(x))), tree)


def layers() -> Iterator[LibraryProgram]:
    for table in test_flax.LAYERS.values():
        for name, case in table.items():
            yield _near(f"flax.linen.{name}", *test_flax.program(*case))
    for table in test_equinox.MODULES.values():
        for name, (make, inputs) in table.items():
            yield _near(f"equinox.{name}", *test_equinox.program(make(), inputs))


def _near(name: str, function: Callable, operands: tuple) -> LibraryProgram:
    return program(name, function, *map(near, operands), every=2)


def nnx_loss(make: Callable) -> tuple[Callable, Any]:
    """The mean square of an NNX model's outputs as a function of its parameters and inputs, and these parameters."""
    definition, parameters, rest = nnx.split(make(nnx.Rngs(0)), nnx.Param, ...)
    pure = nnx.to_pure_dict(parameters)

    def loss(pure, x):
        state = nnx.State(jax.tree.map(lambda x: x, parameters))
        nnx.replace_by_pure_dict(state, pure)
        return jnp.mean(nnx.merge(definition, state, rest)(x) ** 2)

    return loss, pure


_GRU, _FIXED = eqx.partition(eqx.nn.GRUCell(4, 3, key=jax.random.key(0)), eqx.is_inexact_array)


def recurrent(parameters, xs):
    """The last state of an Equinox GRU, its parameters given as arrays."""
    cell = eqx.combine(parameters, _FIXED)
    return jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(3, xs.dtype), xs)[0]


_MLP, _MLP_PARAMETERS = nnx_loss(
    lambda rngs: nnx.Sequential(nnx.Linear(4, 5, rngs=rngs), jnp.tanh, nnx.Linear(5, 2, rngs=rngs))
)
_ATTENTION, _ATTENTION_PARAMETERS = nnx_loss(
    lambda rngs: nnx.MultiHeadAttention(2, 4, decode=False, use_bias=False, rngs=rngs)
)
_CONV, _CONV_PARAMETERS = nnx_loss(lambda rngs: nnx.Conv(2, 3, (3, 3), rngs=rngs))
_NORM, _NORM_PARAMETERS = nnx_loss(
    lambda rngs: nnx.Sequential(nnx.LayerNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs))
)


def solved(kind: str) -> Callable:
    solver = {"Newton": "root_find", "LevenbergMarquardt": "least_squares"}[kind]
    make = getattr(test_optimistix.optimistix, kind)
    find = getattr(test_optimistix.optimistix, solver)
    return test_optimistix.solved(find, make(rtol=1e-7, atol=1e-7), test_optimistix.residual)


PROGRAMS: tuple[LibraryProgram, ...] = (
    *layers(),
    program("flax.nnx.Sequential", _MLP, like(_MLP_PARAMETERS), real(3, 4)),
    program("flax.nnx.MultiHeadAttention", _ATTENTION, like(_ATTENTION_PARAMETERS), real(2, 3, 4), every=2),
    program("flax.nnx.Conv", _CONV, like(_CONV_PARAMETERS), real(1, 5, 5, 2), every=2),
    program("flax.nnx.LayerNorm", _NORM, like(_NORM_PARAMETERS), real(3, 4)),
    program("equinox.GRUCell over a sequence", recurrent, like(_GRU), real(5, 4), every=2),
    program("lineax.linear_solve", test_lineax.solve, definite(3), real(3)),
    program("lineax.CG", test_lineax.symmetric, definite(3), real(3), every=4),
    program("lineax.QR", lambda a, b: test_lineax.solve(a, b, test_lineax.lineax.QR()), definite(3), real(3)),
    program("optimistix.root_find", solved("Newton"), near(np.array([1.3, 0.8])), every=10, bfloat16=False),
    program(
        "optimistix.least_squares", solved("LevenbergMarquardt"), near(np.array([1.3, 0.8])), every=10, bfloat16=False
    ),
    program("diffrax.Tsit5", test_diffrax.solve, *map(near, test_diffrax.OPERANDS), every=10, bfloat16=False),
    program(
        "diffrax.SaveAt(ts=)", test_diffrax.at_own_times, *map(near, test_diffrax.OPERANDS), every=20, bfloat16=False
    ),
)
