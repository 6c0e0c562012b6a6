"""Reductions, changes of shape, indexing."""

from .rows import rows

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
