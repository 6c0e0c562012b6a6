"""`jax.scipy.linalg.eigh_tridiagonal`, of a hermitian A with the diagonal d and e above it: a bisection, whose steps
read d and e in comparisons alone.

An eigenvalue with the unit vector v is λ = vᴴ A v = Σ_i |v_i|² d_i + 2 Re Σ_i conj(v_i) e_i v_{i+1}, and a change of v
does not change it to first order. So, without conjugation as cotangents have it,

    dd_i = Σ_k dλ_k |v_ik|²,    de_i = 2 Σ_k dλ_k conj(v_ik) v_{i+1,k}

The vectors are those that the function returns, or else found in the backward pass, by `eigh` of the full matrix.
"""

from itertools import product

import jax
import jax.numpy as jnp
from jax import lax

from ...backprop.jvp_by_rules import bind_with_jvp
from ...backprop.registry import Structured
from ...jaxprs.avals import operand_avals, output_avals
from ..calls.known_functions import function_rule
from ..expressions import on_expressions
from .eigen import eigh_pullback


@function_rule("eigh_tridiagonal", "jax/_src/scipy/linalg.py")
def eigh_tridiagonal_vjp(engine, equation, active, wanted):
    """See above. What a tolerance changes is noise: its cotangent is zero."""
    d, e = operand_avals(equation)[:2]
    values, *vectors = output_avals(equation)
    axes = _axes_of_vmap(d.shape, e.shape, values.shape)
    if axes is None or (vectors and vectors[0].shape[-2] != vectors[0].shape[-1]):  # vectors of some eigenvalues alone
        return None
    pull = _pull_vectors if vectors else _pull_values
    if values.ndim == 2:
        pull = jax.vmap(pull, in_axes=(*axes, 0, 0), out_axes=tuple(axis or 0 for axis in axes))

    def forward(*operands):
        outputs = bind_with_jvp(engine, equation.primitive, equation.params, operands)
        return outputs, (operands[:2], outputs)

    def backward(saved, cotangents):
        operands, outputs = saved
        return [*pull(*operands, outputs, cotangents), *[None] * (len(active) - 2)]

    return Structured(forward, backward, (*active[:2], *[False] * (len(active) - 2)))


def _axes_of_vmap(d, e, values):
    """The axes of d and e (all are shapes) along which a vmap lies, None for none; None if the shapes leave a doubt."""
    rank = len(values)
    if rank > 2 or max(len(d), len(e)) != rank:
        return None
    choices = [(0, 1) if len(shape) == 2 else (None,) for shape in (d, e)]
    found = [axes for axes in product(*choices) if _fits(d, e, values, axes)]
    return found[0] if len(found) == 1 else None


def _fits(d, e, values, axes):
    """Whether d has one element more than e, and both as many examples as there are, with the examples along `axes`."""
    sizes = [shape[-1] if axis is None else shape[1 - axis] for shape, axis in zip((d, e), axes, strict=True)]
    examples = [shape[axis] for shape, axis in zip((d, e), axes, strict=True) if axis is not None]
    return sizes[0] == sizes[1] + 1 and all(size == values[0] for size in examples)


def _pull_values(d, e, outputs, cotangents):
    (values,), (dvalues,) = outputs, cotangents
    found, v = _eigh(d, e)
    n, k = d.shape[0], values.shape[0]
    if k < n:  # a range of them, which is where they are found among all
        windows = jnp.arange(n - k + 1)[:, None] + jnp.arange(k)[None]
        first = jnp.argmin(jnp.sum(jnp.abs(found[windows] - values[None]), axis=1))
        v = lax.dynamic_slice_in_dim(v, first, k, axis=1)
    weighted = v * dvalues[None].astype(v.dtype)
    return jnp.sum(jnp.real(weighted * v.conj()), axis=1), 2 * jnp.sum(weighted[1:] * v[:-1].conj(), axis=1)


def _eigh(d, e):
    """(eigenvalues, eigenvectors) of the full matrix, both triangles of it: JAX's JVP of eigh takes their mean."""
    matrix = jnp.diag(jnp.real(d).astype(e.dtype)) + jnp.diag(e, 1) + jnp.diag(e.conj(), -1)
    v, values = lax.linalg.eigh(matrix, symmetrize_input=False)
    return values, v


def _pull_vectors(d, e, outputs, cotangents):
    values, v = outputs
    dvalues, dv = cotangents
    dA = on_expressions(lambda v, *rest: eigh_pullback(v, *rest))(v, values, dv, dvalues)
    return jnp.real(jnp.diagonal(dA)), jnp.diagonal(dA, 1) + jnp.diagonal(dA, -1).conj()
