"""The gradient of the root of an equation, by the implicit function theorem."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import gmres

from ..jaxprs.evaluate import interpret, trace_flat
from .pullback import vjp

Root = TypeVar("Root")

LARGEST_FACTORED = 1024  # numbers in a root: the Jacobian of a larger one is not formed
RESTART, MOST_RESTARTS = 40, 25  # of GMRES


def implicit(fun: Callable[[Any, Root], Any], params: Any, root: Root) -> Root:
    """The root, with the gradient that it has as the solution of `fun(params, root) = 0`.

    However the root was found (by a bisection, a table, a host's solver), it follows the parameters as the implicit
    function theorem says. With F = fun(params, x), the cotangent dx of the root becomes that of the parameters by

        u = (∂F/∂x)⁻ᵀ dx,   dparams = -(∂F/∂params)ᵀ u

    so neither the solver's steps nor their number matter. It composes with `jit`, `vmap`, higher derivatives, and both
    `fb.grad` and `jax.grad`; forward mode (`jax.jvp`) is refused, as of every `custom_vjp`.

    Args:
        fun: `(params, root) -> residual`, of as many numbers as the root has. What it closes over is differentiated
            too.
        params: a pytree of arrays or numbers.
        root: where `fun(params, root)` is zero; a pytree of floating or complex arrays. No gradient flows through how
            it was computed.
    Returns:
        The root unchanged.
        The Jacobian is factored for a root of up to 1024 numbers; above, GMRES solves with products of it alone, and
        what it does not solve is NaN. At a double root the Jacobian is singular and the gradient is not finite. Many
        equations of one unknown each are one `jax.vmap` of `fb.implicit`.
    Raises:
        TypeError: the root has a leaf that is not floating or complex.
        ValueError: `fun` returns another number of numbers than the root has.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> def square_root(a):
        ...     def halve(i, bracket):
        ...         low, high = bracket
        ...         middle = (low + high) / 2
        ...         return jnp.where(middle**2 < a, middle, low), jnp.where(middle**2 < a, high, middle)
        ...     low, _ = jax.lax.fori_loop(0, 40, halve, (0.0, 10.0))
        ...     return fb.implicit(lambda a, x: x**2 - a, a, low)
        >>> print(f"{fb.grad(square_root)(9.0):.4f}, and by hand 1 / (2 sqrt(9)) = {1 / 6:.4f}")
        0.1667, and by hand 1 / (2 sqrt(9)) = 0.1667
    """
    params, root = jax.tree.map(jnp.asarray, (params, root))
    for path, leaf in jax.tree.leaves_with_path(root):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(f"fb.implicit: root{jax.tree_util.keystr(path)} is {leaf.dtype}, but must be floating")
    x, as_parts = ravel_pytree(_parts(root))

    def residual(params, x):
        return ravel_pytree(_parts(fun(params, _of_parts(as_parts(x), root))))[0]

    closed = trace_flat(residual, (params, x)).closed
    (found,) = closed.out_avals
    if found.shape != x.shape:
        raise ValueError(f"fb.implicit: fun returns {found.size} real numbers, the root has {x.size}")

    def equation(operands, x):
        consts, leaves = operands
        return interpret(closed.jaxpr, consts, [*leaves, x])[0]

    follow = _following(equation)
    return _of_parts(as_parts(follow((closed.consts, jax.tree.leaves(params)), lax.stop_gradient(x))), root)


def _following(equation: Callable) -> Callable:
    """x as a function of (operands, x) that follows the operands as the root of `equation(operands, x)` does."""

    @jax.custom_vjp
    def follow(operands, x):
        return x

    def forward(operands, x):
        return x, (operands, x)

    def backward(saved, dx):
        operands, x = saved
        x = follow(operands, x)  # the gradient depends on the operands through the root too
        _, pull_x = vjp(lambda x: equation(operands, x), x)
        _, pull_operands = vjp(lambda operands: equation(operands, x), operands)
        u = _solve(lambda u: pull_x(u)[0], dx)
        return *pull_operands(-u), None

    follow.defvjp(forward, backward)
    return follow


def _solve(transposed: Callable, dx: jax.Array) -> jax.Array:
    """u with (∂F/∂x)ᵀ u = dx, from products with that matrix."""
    if dx.size <= LARGEST_FACTORED:
        return jnp.linalg.solve(jax.vmap(transposed, out_axes=1)(jnp.eye(dx.size, dtype=dx.dtype)), dx)
    rounding = float(jnp.finfo(dx.dtype).eps)
    u, _ = gmres(transposed, dx, tol=rounding**0.75, restart=RESTART, maxiter=MOST_RESTARTS)
    solved = jnp.linalg.norm(transposed(u) - dx) <= rounding**0.5 * jnp.linalg.norm(dx)
    return jnp.where(solved, u, jnp.nan)


def _parts(tree: Any) -> Any:
    """The real and imaginary parts of complex leaves: a function of these has a Jacobian, holomorphic or not."""
    return jax.tree.map(lambda x: (jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else x, tree)


def _of_parts(parts: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, part: lax.complex(*part) if jnp.iscomplexobj(x) else part, like, parts)
