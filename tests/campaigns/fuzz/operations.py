"""The table of operations that a random program is made of: source templates with the operands they take.

`{0}`, `{1}` stand for operands; `{axis}` is an axis of operand 0; other names are drawn from the row's choices. An
operand is named by a kind (see `KINDS` in `generate.py`) or the shape of a float array. A guard keeps the operands off
the kinks and poles of the operation. A row whose result has a shape or dtype that programs do not use is rejected
when it is drawn.
"""

import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Operation:
    """One row: the expression, the kinds of its operands, what guards them, and the choices for its names."""

    template: str
    operands: tuple[str, ...]
    guard: str | None = None
    choices: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def rows(operands: str, templates: str, guard: str | None = None, **choices: Any) -> list[Operation]:
    """One operation for each line of `templates`."""
    lines = [line.strip() for line in templates.strip().splitlines()]
    kinds = tuple(re.findall(r"\([^)]*\)|\w+", operands))
    return [Operation(line, kinds, guard, choices) for line in lines]


ELEMENTWISE = [
    *rows(
        "float",
        """
        jnp.sin({0})
        jnp.cos({0})
        jnp.tanh({0})
        jnp.exp({0})
        jnp.exp2({0})
        jnp.expm1({0})
        jnp.arctan({0})
        jnp.arcsinh({0})
        jnp.sinh({0})
        jnp.cosh({0})
        lax.logistic({0})
        lax.erf({0})
        lax.erfc({0})
        lax.square({0})
        lax.neg({0})
        lax.bessel_i0e({0})
        lax.bessel_i1e({0})
        jax.nn.gelu({0})
        jax.nn.softplus({0})
        jax.nn.silu({0})
        lax.stop_gradient({0})
        lax.optimization_barrier({0})
        lax.reduce_precision({0}, 11, 52)
        jnp.float64(jnp.float32({0}))
        {0} * {c}
        {c} - {0}
        {0} + jnp.floor({0} * {c})
        """,
        c=(0.3, 0.7, 1.5),
    ),
    *rows("float", "lax.integer_pow({0}, {n})", n=(2, 3, 4)),
    *rows("float", "lax.integer_pow({0}, {n})", "away from 0", n=(-1, -2, -3)),
    *rows(
        "float",
        """
        jnp.log({0})
        jnp.log1p({0})
        jnp.sqrt({0})
        lax.rsqrt({0})
        jnp.cbrt({0})
        lax.lgamma({0})
        lax.digamma({0})
        lax.polygamma(1.0, {0})
        lax.zeta(1.5 + {0}, 2.0)
        {0} ** 1.7
        {c} ** {0}
        """,
        "positive",
        c=(0.5, 2.0),
    ),
    *rows("float", "jnp.arcsin({0})\njnp.arccos({0})\njnp.arctanh({0})\nlax.erf_inv({0})", "inside 1"),
    *rows("float", "jnp.arccosh(1.0 + {0})", "positive"),
    *rows("float", "jnp.tan({0})", "inside 1"),
    *rows("float", "jnp.abs({0})\njnp.sign({0}) * {0}\njax.nn.relu({0})\njax.nn.leaky_relu({0})", "away from 0"),
    *rows("float", "lax.clamp({low}, {0}, {high})", low=(-0.51, -1.01), high=(0.52, 1.02)),
    *rows("float", "jnp.clip({0}, {low}, {high})", low=(-0.51, -1.01), high=(0.52, 1.02)),
]

BINARY = [
    *rows("float broadcast", "{0} + {1}\n{0} - {1}\n{0} * {1}\njnp.logaddexp({0}, {1})\njnp.hypot({0}, {1})"),
    *rows("float like", "lax.add({0}, {1})\nlax.mul({0}, {1})\nlax.sub({0}, {1})\nlax.atan2({0}, {1})"),
    *rows("float scalar", "{0} * {1}\n{0} + {1}\n{1} - {0}"),
    *rows("float broadcast", "{0} / {1}\njnp.arctan2({1}, {0})", "last away from 0"),
    *rows("float like", "lax.rem({0}, {1})", "last away from 0"),
    *rows("float broadcast", "jnp.maximum({0}, {1})\njnp.minimum({0}, {1})", "apart"),
    *rows("float broadcast", "jnp.abs({0}) ** {1}\nlax.pow(jnp.abs({0}), {1} + 0.0 * {0})", "away from 0"),
    *rows("float like", "lax.igamma({0}, {1})\nlax.igammac({0}, {1})", "positive"),
    *rows("float like like", "lax.clamp(-jnp.abs({0}), {1}, 0.3 + lax.square({2}))"),
    *rows("float like bool", "jnp.where({2}, {0}, {1})\nlax.select({2}, {0}, {1})\nlax.select_n({2}, {0}, {1})"),
    *rows("float broadcast", "jnp.where({0} > {1}, {0}, {1} * {0})", "apart"),
]

SIDE = [
    *rows("float like", "{0} > {1}\n{0} <= {1}", "apart"),
    *rows("float", "{0} > {c}", c=(0.013, -0.21)),
    *rows("float", "jnp.isfinite({0})\n~({0} < 0.123)"),
    *rows("(3,)", "jnp.argsort({0}).astype(jnp.int32)\nlax.iota(jnp.int32, 3)[::-1]"),
    *rows("index", "({0} + {k}) % 3\njnp.maximum({0}, {k})\n-{0} - 1", k=(1, 2)),
    *rows("float index", "{0} * jnp.sum({1}).astype(jnp.float64)\n{0} + {1}[{k}]", k=(0, 2)),
    *rows("bool", "{0}.astype(jnp.float64)"),
]

REDUCTIONS = [
    *rows(
        "array",
        """
        jnp.sum({0}, axis={axis})
        jnp.mean({0}, axis={axis}, keepdims=True) + {0}
        jnp.prod({0}, axis={axis})
        jnp.prod(jnp.round({0}) + 0.0 * {0}, axis={axis}) + jnp.sum({0}, axis={axis})
        jnp.linalg.norm({0}, axis={axis})
        jnp.var({0}, axis={axis})
        jax.nn.logsumexp({0}, axis={axis})
        jax.nn.softmax({0}, axis={axis})
        jax.nn.log_softmax({0}, axis={axis})
        lax.cumsum({0}, axis={axis}, reverse={flag})
        lax.cumprod({0}, axis={axis}, reverse={flag})
        lax.cumlogsumexp({0}, axis={axis}, reverse={flag})
        jnp.sum({0})
        jnp.mean({0})
        lax.associative_scan(lambda a, b: a * 0.5 + b, {0}, axis={axis})
        jnp.sum({0}, axis={axis}, where={0} > 0.1)
        """,
        flag=(True, False),
    ),
    *rows(
        "array",
        """
        jnp.max({0}, axis={axis})
        jnp.min({0}, axis={axis})
        jnp.max({0})
        jnp.median({0}, axis={axis})
        lax.cummax({0}, axis={axis}, reverse={flag})
        lax.cummin({0}, axis={axis}, reverse={flag})
        jnp.sort({0}, axis={axis})
        lax.top_k({0}, {k})[0]
        jnp.take_along_axis({0}, jnp.argsort({0}, axis={axis}), axis={axis})
        lax.sort({0}, dimension={axis}, is_stable=False)
        """,
        "distinct",
        flag=(True, False),
        k=(3, 4),
    ),
    *rows("array like", "lax.sort(({0}, {1}), dimension={axis}, num_keys={k})[{i}]", "distinct", k=(1, 2), i=(0, 1)),
    *rows("array like", "lax.top_k({0}, 3)[0] * lax.top_k({1}, 3)[0]", "distinct"),
]

SHAPES = [
    *rows(
        "matrix",
        """
        {0}.T
        {0}.reshape(-1)[:4]
        {0}[1]
        {0}[:, 2]
        {0}[::-1]
        {0}[:, ::-1]
        {0}[:3, :3]
        jnp.diag({0})
        """,
    ),
    *rows("matrix", "jnp.tril({0})\njnp.triu({0}, 1)\njnp.trace({0})\njnp.roll({0}, 1, axis={axis})"),
    *rows(
        "array",
        """
        lax.rev({0}, ({axis},))
        {0}[..., 0]
        {0}[0]
        jnp.squeeze({0}[:1], 0)
        {0}[..., 1:]
        {0}[..., ::2]
        """,
    ),
    *rows(
        "(2, 3, 4)",
        """
        {0}[0]
        {0}.sum(0)
        jnp.transpose({0}, (1, 2, 0))[..., 1]
        {0}[1, :, 1:]
        {0}.reshape(4, 6)[:, 3:]
        """,
    ),
    *rows("(3, 4)", "jnp.broadcast_to({0}, (2, 3, 4))\njnp.stack([{0}, 2.0 * {0}])\n{0}.reshape(4, 3)"),
    *rows(
        "(3, 4) like",
        """
        jnp.stack([{0}, {1}])
        jnp.concatenate([{0}[:1], {1}[1:]])
        lax.concatenate([{0}[:, :1], {1}], 1)[:, 1:]
        """,
    ),
    *rows(
        "(3,)",
        """
        lax.broadcast_in_dim({0}, (3, 4), (0,))
        jnp.tile({0}, 2)[:4]
        jnp.repeat({0}, 2)[1:5]
        {0}[:, None] * {0}
        """,
    ),
    *rows(
        "(4,)",
        """
        jnp.broadcast_to({0}, (3, 4))
        {0}[1:]
        jnp.concatenate([{0}[2:], {0}[:2]])
        jnp.outer({0}[:3], {0})
        """,
    ),
    *rows("(3,) (4,)", "jnp.concatenate([{0}, {1}])[{k}:{k} + 4]\njnp.outer({0}, {1})", k=(0, 2, 3)),
    *rows("scalar", "jnp.broadcast_to({0}, (4,))\njnp.full((3, 4), {0})"),
    *rows("scalar scalar scalar", "jnp.stack([{0}, {1}, {2}])"),
    *rows("array", "jnp.pad({0}, 1, mode='{mode}')[..., 1:-1]", mode=("edge", "reflect", "wrap")),
    *rows(
        "vector scalar", "lax.pad({0}, {1}, [{config}])", config=("(1, 0, 0)", "(-1, 0, 0)", "(-1, 0, 1)", "(1, -1, 0)")
    ),
    *rows(
        "matrix scalar", "lax.pad({0}, {1}, [(0, 0, 0), {config}])", config=("(1, 0, 0)", "(0, -1, 0)", "(2, -2, 0)")
    ),
    *rows("matrix", "lax.dynamic_slice({0}, ({i}, {j}), (3, 3))", i=(0, 1), j=(0, 1, 5)),
    *rows("matrix (3,)", "lax.dynamic_update_slice({0}, {1}[None], ({i}, {j}))", i=(0, 2), j=(0, 1, -1)),
    *rows("vector scalar index", "lax.dynamic_update_index_in_dim({0}, {1}, {2}[1], 0)"),
    *rows(
        "matrix index",
        """
        lax.dynamic_index_in_dim({0}, {1}[0], axis=0, keepdims=False)
        lax.dynamic_slice_in_dim({0}, {1}[2], 3, 0)
        """,
    ),
    *rows("(3, 4)", "jnp.split({0}, 2, axis=1)[1].reshape(-1)[:4]\njnp.einsum('ij->j', {0})"),
]

INDEXING = [
    *rows(
        "array index",
        """
        {0}[{1}]
        {0}.at[{1}].add({c})
        {0}.at[{1}].multiply({c})
        jnp.take({0}, {1}, axis=-1, mode='clip')
        jnp.take({0}, {1}, axis=0, mode='wrap')
        jnp.take({0}, {1} + 1, axis=0, mode='fill', fill_value={c})
        {0}[..., {1}]
        """,
        c=(0.5, 2.0),
    ),
    *rows(
        "(3, 4) index",
        """
        {0}[{1}, {1}]
        {0}[jnp.arange(3), {1}]
        {0}[{1}][:, {1}]
        jnp.take_along_axis({0}, {1}[:, None], 1)[:, 0]
        """,
    ),
    *rows(
        "(3, 4) (3,) index",
        """
        {0}.at[jnp.arange(3), {2}].add({1})
        {0}.at[:, {2}].add({1}[:, None])
        {0}.at[{2}, 1].max({1})
        """,
    ),
    *rows(
        "(4,) (3,) index",
        """
        {0}.at[{2}].add({1})
        {0}.at[{2}].max({1})
        {0}.at[{2}].min({1})
        {0}.at[{2} + 2].add({1}, mode='drop')
        """,
    ),
    *rows(
        "(4,) (3,) index",
        """
        {0}.at[jnp.sort({2})].set({1}, mode='clip')
        {0}.at[jnp.argsort({2})].set({1})
        {0}.at[{2}].subtract({1})
        """,
    ),
    *rows(
        "(4,) (3,)",
        """
        {0}.at[jnp.array([2, 0, 3])].multiply({1})
        {0}.at[jnp.array([2, 0, 3])].set({1}, unique_indices=True)
        """,
    ),
    *rows(
        "(3,) index",
        """
        jax.ops.segment_sum({0}, {1}, num_segments=4)
        jax.ops.segment_max({0}, {1}, num_segments=3, indices_are_sorted=False) * jnp.zeros(3)
        """,
    ),
    *rows("(2, 3, 4) index", "{0}[1, {1}]\n{0}[:, {1}, 1:][0]\n{0}.at[:, {1}].add({0})"),
]

CONTRACTIONS = [
    *rows("matrix times", "{0} @ {1}\njnp.dot({0}, {1})"),
    *rows(
        "(3, 4) (3, 4)",
        """
        jnp.einsum('ij,ij->i', {0}, {1})
        jnp.einsum('ij,kj->ik', {0}, {1})
        lax.dot_general({0}, {1}, (((0,), (0,)), ((), ())))
        """,
    ),
    *rows(
        "(3, 4) (3, 4)",
        """
        lax.dot_general({0}, {1}, (((1,), (1,)), ((0,), (0,))))
        jnp.vdot({0}, {1})
        jnp.einsum('ij,kl->jl', {0}, {1})
        """,
    ),
    *rows(
        "(2, 3, 4) (3, 4)",
        """
        jnp.einsum('bij,ij->j', {0}, {1})
        jnp.einsum('bij,kj->bik', {0}, {1})[1]
        jnp.tensordot({0}, {1}, 2).sum()
        """,
    ),
    *rows("(2, 3, 4) like", "jnp.einsum('bij,bkj->ik', {0}, {1})\njnp.matmul({0}, jnp.swapaxes({1}, 1, 2))[0]"),
    *rows(
        "(3, 3) like",
        """
        lax.dot_general({0}, {1}, (((0,), (1,)), ((), ())), preferred_element_type=jnp.float64)
        jnp.kron({0}, {1})[:4, :4]
        """,
    ),
    *rows("(3,) (4,) (3, 4)", "jnp.einsum('i,j,ij->', {0}, {1}, {2})\njnp.einsum('i,j,ij->ij', {0}, {1}, {2})"),
    *rows("(3, 4) (3, 3)", "lax.conv({0}[None, None], {1}[None, None], (1, 1), 'SAME')[0, 0]"),
    *rows("(4,) (3,)", "jnp.convolve({0}, {1}, 'same')\njnp.convolve({0}, {1}, 'full')[:3]"),
    *rows(
        "(2, 3, 4) (2, 3, 4)",
        "lax.conv_general_dilated({0}, {1}[:, :, :{w}], ({s},), [({p}, 1)], ({d},), ({e},)).reshape(-1)[:4]",
        w=(2, 3),
        s=(1, 2),
        p=(0, 2, -1),
        d=(1, 2),
        e=(1, 2),
    ),
    *rows(
        "(2, 3, 4) (3, 4)",
        "lax.conv_general_dilated({0}, {1}[:, None], (1,), 'SAME', feature_group_count=3)",
    ),
    *rows(
        "(2, 3, 4) (2, 3, 4)",
        "lax.conv_general_dilated({0}, {1}, (1,), 'SAME', batch_group_count=2).reshape(-1)[:4]",
    ),
]

WINDOWS = [
    *rows("matrix", "lax.reduce_window({0}, 0.0, lax.add, ({k}, 2), ({s}, 1), 'SAME')", k=(1, 2), s=(1, 2)),
    *rows(
        "matrix",
        "lax.reduce_window({0}, -jnp.inf, lax.max, ({k}, 2), (1, {s}), 'SAME')",
        "distinct",
        k=(1, 2),
        s=(1, 2),
    ),
    *rows("matrix", "lax.reduce_window({0}, jnp.inf, lax.min, (2, 2), (1, 1), [(1, 0), (0, 1)])", "distinct"),
    *rows("(4,)", "lax.reduce_window({0}, 0.0, lax.add, (2,), (1,), [(1, 1)], (1,), (2,))"),
]

GENERIC = [
    *rows(
        "array",
        """
        lax.reduce({0}, jnp.float64(-jnp.inf), jnp.logaddexp, ({axis},))
        lax.reduce({0}, jnp.float64(1.0), lax.mul, ({axis},))
        jax.random.gamma(jax.random.key(3), 0.5 + jnp.abs({0}))
        jax.random.truncated_normal(jax.random.key(4), -1.0 - jnp.abs({0}), 1.0)
        """,
    ),
    *rows("matrix", "jax.image.resize({0}, (3, 4), '{how}')", how=("linear", "cubic", "nearest")),
    *rows("float", "jnp.interp({0}, jnp.linspace(-2.0, 2.0, 4), jnp.array([0.3, -0.2, 0.9, 0.4]))", "small"),
    *rows("float", "jax.scipy.special.betainc({c}, 2.5, 0.5 + 0.4 * jnp.tanh({0}))", c=(0.6, 2.0)),
    *rows("array", "lax.approx_max_k({0}, 3)[0]", "distinct"),
    *rows("(3, 4) (2, 3, 4)", "lax.ragged_dot({0}, jnp.swapaxes({1}, 1, 2), jnp.array([2, 1]))"),
]

COMPLEX = [
    *rows("float like", "lax.complex({0}, {1})\n{0} + 1j * {1}\n{0} * jnp.exp(1j * {1})"),
    *rows(
        "complex",
        """
        jnp.real({0})
        jnp.imag({0})
        jnp.conj({0})
        jnp.exp({0})
        jnp.sin({0})
        jnp.tanh({0})
        {0} * {0}
        jnp.cumsum({0})[:3]
        """,
    ),
    *rows(
        "complex",
        """
        jnp.abs({0})
        jnp.angle({0})
        1.0 / {0}
        jnp.log({0})
        jnp.sqrt({0})
        lax.integer_pow({0}, 3)
        """,
        "away from 0",
    ),
    *rows("complex complex like", "{0} * {1}\n{0} - {1}"),
    *rows("complex", "jnp.prod({0}, axis={axis})\nlax.cumprod({0}, axis={axis})"),
    *rows("complex", "{0} ** {n}", "away from 0", n=(2, 1.5, -1)),
    *rows("complex complex", "jnp.vdot({0}, {1})\n{0} @ {1}\njnp.outer({0}, {1})[:3, :3]"),
    *rows("complex float like", "{0} * {1}\njnp.where({1} > 0.1, {0}, {1})"),
    *rows(
        "array",
        """
        jnp.fft.fft({0})
        jnp.fft.rfft({0})
        jnp.abs(jnp.fft.rfft({0}))[..., :3]
        jnp.fft.ifft({0}).real
        """,
    ),
    *rows("complex", "jnp.fft.ifft({0}, axis=-1)\njnp.fft.irfft({0}, 4)\njnp.sum({0})\n{0} @ {0}"),
]

LINEAR_ALGEBRA = [
    *rows(
        "(3, 3)",
        """
        jnp.linalg.inv({0} + 4.0 * jnp.eye(3))
        jnp.linalg.cholesky({0} @ {0}.T + 2.0 * jnp.eye(3))
        jnp.linalg.qr({0} + 3.0 * jnp.eye(3))[{k}]
        jnp.linalg.eigh({0} + jnp.diag(jnp.array([0.0, 3.0, 7.0])))[{k}]
        jnp.linalg.eigvalsh({0})
        jnp.linalg.slogdet({0} + 4.0 * jnp.eye(3))[1]
        jax.scipy.linalg.lu({0} + 4.0 * jnp.eye(3))[1 + {k}]
        jax.scipy.linalg.expm({0})
        jnp.linalg.pinv({0} + 4.0 * jnp.eye(3))
        jnp.linalg.eigvals({0} + jnp.diag(jnp.array([0.0, 5.0, 11.0])))
        jnp.linalg.eigh({0} + 1j * jnp.triu({0}, 1) + jnp.diag(jnp.array([0.0, 3.0, 7.0])))[{k}]
        jnp.linalg.det({0})
        jnp.linalg.svd({0} + jnp.diag(jnp.array([0.0, 3.0, 7.0])), compute_uv=False)
        jnp.linalg.svd({0} + jnp.diag(jnp.array([0.0, 3.0, 7.0])))[0]
        """,
        "small",
        k=(0, 1),
    ),
    *rows(
        "(3, 4)",
        """
        jnp.linalg.qr({0}.T)[0]
        jnp.linalg.svd({0}, full_matrices=False)[2]
        jnp.linalg.qr({0})[1]
        """,
        "small",
    ),
    *rows(
        "(3, 3) (3,)",
        """
        jnp.linalg.solve({0} + 4.0 * jnp.eye(3), {1})
        {1} @ jnp.linalg.inv({0} - 4.0 * jnp.eye(3))
        lax.linalg.tridiagonal_solve({0}[0] * jnp.array([0.0, 1.0, 1.0]), 4.0 + {0}[1], {0}[2], {1}[:, None])[:, 0]
        """,
        "small",
    ),
    *rows(
        "(3, 3) (3, 4)",
        "lax.linalg.triangular_solve({0} + 3.0 * jnp.eye(3), {1}, left_side=True, lower={flag}, transpose_a={other})",
        "small",
        flag=(True, False),
        other=(True, False),
    ),
]

# How often each family is drawn.
FAMILIES = [
    (12, ELEMENTWISE),
    (8, BINARY),
    (3, SIDE),
    (8, REDUCTIONS),
    (7, SHAPES),
    (5, INDEXING),
    (5, CONTRACTIONS),
    (2, WINDOWS),
    (2, GENERIC),
    (3, COMPLEX),
    (1, LINEAR_ALGEBRA),
]
