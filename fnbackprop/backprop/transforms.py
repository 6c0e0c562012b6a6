"""`grad`, `value_and_grad`, `jacrev`, `hessian`: JAX's signatures and semantics, our backward pass."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..jaxprs.avals import as_weak, aval_of, is_inexact, is_weak
from ..jaxprs.tracebacks import hides_internal_frames
from ..jaxprs.types import Aval
from .arguments import (
    check_callable,
    check_input,
    check_output,
    check_positions,
    check_scalar,
    positions_of,
    select_arguments,
)
from .engine import Engine
from .options import Options, takes_options
from .pullback import Pullback, vjp


@takes_options
def value_and_grad(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    **options: Unpack[Options],
) -> Callable:
    """A function that returns `fun`'s value and its gradient, as `jax.value_and_grad`, by hand-written rules.

    Args:
        fun: a function whose output is a scalar; with `has_aux`, a pair (scalar, aux).
        argnums: the positional argument or arguments to differentiate.
        has_aux: return ((value, aux), gradient).
        holomorphic: promise that `fun` is holomorphic; inputs and output are then complex.
        allow_int: let integer arguments pass, with a float0 gradient.
        options: those of the engine, beyond JAX's.
    Returns:
        A function of `fun`'s arguments that returns (value, gradient). The gradient is like the argument at `argnums`,
        a pytree of arrays of the same shapes and dtypes; for several, a tuple with one like each.
    Raises:
        TypeError: the output is not a real scalar, or an argument cannot be differentiated, in JAX's words.
        MissingRule: equations without a rule, all listed with their source lines.
        BudgetError: no backward keeps the budget.
    Example:
        >>> import fnbackprop as fb, jax.numpy as jnp
        >>> def loss(w, x):
        ...     return jnp.sum((x @ w) ** 2)
        >>> value, gradient = fb.value_and_grad(loss)(jnp.array([1.0, 2.0]), jnp.eye(2))
        >>> print(value, gradient)
        5.0 [2. 4.]
    """
    check_callable(fun)
    Engine.of_options(options)  # a mistake in them is told here, and not at the first call
    argnums = positions_of(argnums)

    @hides_internal_frames
    @functools.wraps(fun)
    def value_and_grad_fun(*args, **kwargs):
        check_positions(argnums, args)
        partial, dynamic = select_arguments(fun, argnums, args, kwargs)
        for leaf in jax.tree.leaves(dynamic):
            check_input("grad", holomorphic, allow_int, leaf)
        value, pullback, *aux = vjp(partial, *dynamic, has_aux=has_aux, **options)
        check_scalar(value)
        check_output("grad", holomorphic, value)
        gradient = pullback(lax.full_like(value, 1))
        gradient = gradient[0] if isinstance(argnums, int) else gradient
        return ((value, *aux) if has_aux else value), gradient

    return value_and_grad_fun


@takes_options
def grad(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    **options: Unpack[Options],
) -> Callable:
    """A function that returns the gradient of `fun`, as `jax.grad`, by hand-written rules.

    Args:
        fun: a function whose output is a scalar; with `has_aux`, a pair (scalar, aux).
        argnums: the positional argument or arguments to differentiate.
        has_aux: return (gradient, aux).
        holomorphic: promise that `fun` is holomorphic; inputs and output are then complex.
        allow_int: let integer arguments pass, with a float0 gradient.
        options: those of the engine, beyond JAX's.
    Returns:
        A function of `fun`'s arguments that returns the gradient, like the argument at `argnums`: a pytree of arrays
        of the same shapes and dtypes; for several, a tuple with one like each.
    Raises:
        TypeError: the output is not a real scalar, or an argument cannot be differentiated, in JAX's words.
        MissingRule: equations without a rule, all listed with their source lines.
        BudgetError: no backward keeps the budget.
    Example:
        >>> import fnbackprop as fb, jax, jax.numpy as jnp
        >>> print(jax.jit(fb.grad(lambda x: jnp.sum(jnp.sin(x))))(jnp.zeros(3)))
        [1. 1. 1.]
    """
    both = value_and_grad(fun, argnums, has_aux, holomorphic, allow_int, **options)

    @hides_internal_frames
    @functools.wraps(fun)
    def grad_fun(*args, **kwargs):
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return grad_fun


@takes_options
def jacrev(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    **options: Unpack[Options],
) -> Callable:
    """A function that returns the Jacobian of `fun`, one pullback per output element, as `jax.jacrev`.

    Args:
        fun: a function of arrays and pytrees of them, of any outputs; with `has_aux`, a pair (output, aux).
        argnums: the positional argument or arguments to differentiate.
        has_aux: return (Jacobian, aux).
        holomorphic: promise that `fun` is holomorphic; inputs and outputs are then complex.
        allow_int: let integer arguments pass, with a Jacobian of integer zeros, as JAX's.
        options: those of the engine, beyond JAX's.
    Returns:
        A function of `fun`'s arguments that returns a pytree like `fun`'s output, of pytrees like the arguments, with
        leaves of shape (*output, *input).
    Raises:
        TypeError: an output is not real, or an argument cannot be differentiated, in JAX's words.
        MissingRule: equations without a rule, all listed with their source lines.
    Example:
        >>> import fnbackprop as fb, jax.numpy as jnp
        >>> print(fb.jacrev(lambda x: x**2)(jnp.array([1.0, 2.0])))
        [[2. 0.]
         [0. 4.]]
    """
    return _jacobian_of(fun, argnums, has_aux, holomorphic, allow_int, options)


@takes_options
def hessian(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    **options: Unpack[Options],
) -> Callable:
    """A function that returns the Hessian of `fun`, as `jax.hessian`: our reverse mode over our reverse mode.

    Args:
        fun: a function of arrays and pytrees of them, usually of scalar output; with `has_aux`, a pair (output, aux).
        argnums: the positional argument or arguments to differentiate.
        has_aux: return (Hessian, aux).
        holomorphic: promise that `fun` is holomorphic; inputs and outputs are then complex.
        options: those of the engine, beyond JAX's.
    Returns:
        A function of `fun`'s arguments that returns the Jacobian of the Jacobian: leaves of shape (*output, *input,
        *input).
    Raises:
        TypeError: an output is not real, or an argument cannot be differentiated, in JAX's words.
        MissingRule: equations without a rule, all listed with their source lines.
    Example:
        >>> import fnbackprop as fb
        >>> print(fb.hessian(lambda x: x**3)(2.0))
        12.0
    """
    inner = _jacobian_of(fun, argnums, has_aux, holomorphic, False, options)
    return _jacobian_of(inner, argnums, has_aux, holomorphic, False, options, typed_as_output=True)


def _jacobian_of(
    fun: Callable,
    argnums: int | Sequence[int],
    has_aux: bool,
    holomorphic: bool,
    allow_int: bool,
    options: Options,
    typed_as_output: bool = False,
) -> Callable:
    """`jacrev`. typed_as_output: each block is of its output's dtype, as by forward mode, instead of its input's."""
    check_callable(fun)
    Engine.of_options(options)  # a mistake in them is told here, and not at the first call
    argnums = positions_of(argnums)

    @hides_internal_frames
    @functools.wraps(fun)
    def jacrev_fun(*args, **kwargs):
        partial, dynamic = select_arguments(fun, argnums, args, kwargs)
        for leaf in jax.tree.leaves(dynamic):
            check_input("jacrev", holomorphic, allow_int, leaf)
        value, pullback, *aux = vjp(partial, *dynamic, has_aux=has_aux, **options)
        for leaf in jax.tree.leaves(value):
            check_output("jacrev", holomorphic, leaf)
        example = dynamic[0] if isinstance(argnums, int) else dynamic
        jacobian = _jacobian(pullback, value, example, isinstance(argnums, int), typed_as_output)
        return (jacobian, *aux) if has_aux else jacobian

    return jacrev_fun


def _jacobian(pullback: Pullback, value: Any, example: Any, single: bool, typed_as_output: bool) -> Any:
    """Pull back the standard basis of the output space and arrange the rows as out-tree of in-tree."""
    outputs, out_tree = jax.tree.flatten(jax.tree.map(jnp.asarray, value))
    inputs, in_tree = jax.tree.flatten(example)
    sizes = [math.prod(jnp.shape(y)) for y in outputs]
    total, starts = sum(sizes), np.cumsum([0, *sizes])
    rows_of = [
        jnp.eye(total, size, -int(start), dtype=y.dtype).reshape(total, *y.shape)
        for y, size, start in zip(outputs, sizes, starts, strict=False)
    ]
    basis = [as_weak(ct) if is_weak(y) else ct for ct, y in zip(rows_of, outputs, strict=True)]

    def rows(cotangents):
        out = pullback(cotangents)
        leaves = jax.tree.leaves(out[0] if single else out)
        return [leaf for leaf in leaves if leaf.dtype != jax.dtypes.float0]

    found = iter(jax.vmap(rows)(out_tree.unflatten(basis)))
    columns = [next(found) if is_inexact(aval_of(x)) else _no_slopes(aval_of(x), total) for x in inputs]
    blocks = []
    for y, size, start in zip(outputs, sizes, starts, strict=False):
        leaves = [c[int(start) : int(start) + size].reshape((*y.shape, *c.shape[1:])) for c in columns]
        blocks.append(in_tree.unflatten([_typed_as(y, leaf) if typed_as_output else leaf for leaf in leaves]))
    return out_tree.unflatten(blocks)


def _typed_as(y: jax.Array, block: jax.Array) -> jax.Array:
    return as_weak(lax.convert_element_type(block, y.dtype), is_weak(y))


def _no_slopes(aval: Aval, rows: int) -> Any:
    """The Jacobian's columns of an input that is not differentiable: integers have zeros of their own type, as JAX's;
    keys and booleans, of which JAX makes none, have float0."""
    if jnp.issubdtype(aval.dtype, np.integer):
        return as_weak(jnp.zeros((rows, *aval.shape), aval.dtype), is_weak(aval))
    return np.zeros((rows, *aval.shape), jax.dtypes.float0)
