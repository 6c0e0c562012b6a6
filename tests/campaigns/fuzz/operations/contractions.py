"""Products, convolutions, windows, generic reductions and linear algebra."""

from .rows import rows

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

# Where the number of entries is not told, it is found from the values, which a traced program does not have.
_TOLD = ("", ", nse={0}.size")

SPARSE = [
    *rows(
        "matrix times",
        """
        sparse.BCOO.fromdense({0}{nse}) @ {1}
        sparse.BCSR.fromdense({0}{nse}) @ {1}
        """,
        nse=_TOLD,
    ),
    *rows("matrix times", "sparse.COO.fromdense({0}) @ {1}\nsparse.CSR.fromdense({0}) @ {1}"),
    *rows(  # of what fills up entries that are zero, JAX adds the gradients to that of the first element
        "matrix times",
        "sparse.COO.fromdense({0}, nse={0}.size) @ {1}\nsparse.CSR.fromdense({0}, nse={0}.size) @ {1}",
        "away from 0",
    ),
    *rows("matrix times", "sparse.BCOO.fromdense({0}, n_dense=1{nse}) @ {1}", nse=("", ", nse={0}.shape[0]")),
    *rows(
        "matrix",
        """
        sparse.BCOO.fromdense({0}{nse}).T.todense()
        sparse.BCOO.fromdense({0}).sum_duplicates(remove_zeros=False).todense()
        sparse.BCOO.fromdense({0}{nse}).sum_duplicates(nse={0}.size).todense()
        sparse.BCOO.fromdense({0}{nse}).sum({axis}).todense()
        sparse.BCSR.fromdense({0}{nse}).todense()
        sparse.BCOO.fromdense({0}{nse}).sort_indices().data[:{0}.size].reshape({0}.shape)
        """,
        nse=_TOLD,
    ),
    *rows("matrix", "sparse.BCOO.fromdense({0}, n_batch=1{nse})[1].todense()", nse=("", ", nse={0}.shape[1]")),
    *rows(
        "matrix like",
        """
        (sparse.BCOO.fromdense({0}{nse}) * {1}).todense()
        (sparse.BCOO.fromdense({0}{nse}) + sparse.BCOO.fromdense({1}{nse})).todense()
        """,
        nse=_TOLD,
    ),
    *rows(
        "matrix like",
        "sparse.bcoo_dot_general_sampled("
        "{0}, {1}.T, jnp.array([[0, 1], [2, 0], [1, 1]]), dimension_numbers=(([1], [0]), ([], [])))",
    ),
]
