"""A hand-written VJP per primitive, one subpackage per family. Importing this package registers them all."""

# ruff: noqa: F401
from . import without_rule
from .arrays import cumulative, generic_reductions, identities, indexing, reductions, scatter, shapes, sorting, windows
from .calls import call, cond, custom, foreign, hijax, jit, remat
from .devices import collectives, placement, shard_map
from .linear_algebra import eigen, eigh_tridiagonal, factorizations, hessenberg_schur, householder, solves, svd
from .loops import scan, while_loop
from .pointwise import binary, conversions, incomplete, special, unary
from .products import conv, dot, fourier
from .sparse import direct_solve, duplicates, formats, sparse_dense, sparse_sparse
