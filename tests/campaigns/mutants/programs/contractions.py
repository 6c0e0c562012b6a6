"""Contractions, convolutions, Fourier transforms."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax

from .operands import complex_normal, normal
from .table import add

# fmt: off
# ---------------------------------------------------------------- contractions and convolutions

SUBSCRIPTS = ("mc,cn->mn", "bmc,bcn->bmn", "cm,nc->mn", "bcm,bnc->bmn", "abm,nba->mn", "mc,nc->mn", "mcd,dnc->mn")
for _subscripts in SUBSCRIPTS:
    _sizes = {k: 2 if k in "bad" else 3 for k in _subscripts}
    _shapes = [[_sizes[k] for k in part] for part in _subscripts.split("->")[0].split(",")]
    add("dot_general", partial(jnp.einsum, _subscripts), *(normal(*s, seed=i) for i, s in enumerate(_shapes)))
add("dot_general", lambda x, y: x @ y, complex_normal(3, 3), complex_normal(3, 3, seed=1))
add("dot_general", lambda x, y: x @ y, normal(3, 40, dtype="bfloat16"), normal(40, 3, dtype="bfloat16", seed=1))
add("dot_general", lambda x, y: lax.dot_general(x, y, (((1,), (0,)), ((), ()))),
    normal(3, 4, dtype="bfloat16"), normal(4, 3, seed=1))
add("dot_general", partial(jnp.matmul, precision=("highest", "default")), normal(3, 3), normal(3, 3, seed=1))
GROUPS = np.int32([2, 1, 3])
RAGGED = {  # the part whose axis falls into groups: shapes of x and y, contracting, ragged and group axes
    "m": ((6, 3), (3, 3, 3), ((1,), (1,)), 0, (0,)),
    "c": ((3, 6), (6, 3), ((1,), (0,)), 1, ()),
    "b": ((6, 3, 3), (6, 3, 3), ((2,), (1,)), 0, ()),
}
for _part, (_x, _y, _over, _axis, _group) in RAGGED.items():
    _batch = ((0,), (0,)) if _part == "b" else ((), ())
    add("ragged_dot_general", lambda x, y, n=(_over, _batch, _axis, _group): lax.ragged_dot_general(
        x, y, GROUPS, lax.RaggedDotDimensionNumbers((n[0], n[1]), [n[2]], list(n[3]))),
        normal(*_x), normal(*_y, seed=1))
add("ragged_dot_general", lambda x, y: lax.ragged_dot_general(  # with the axes of x in another order
    x, y, GROUPS, lax.RaggedDotDimensionNumbers((((0,), (1,)), ((), ())), [1], [0])),
    normal(3, 6), normal(3, 3, 3, seed=1))
CONVOLUTIONS = [
    ((2, 2, 5), (3, 2, 3), {"window_strides": (2,), "padding": [(1, 2)]}),
    ((2, 2, 4), (3, 2, 2), {"window_strides": (1,), "padding": [(2, -1)], "lhs_dilation": (2,), "rhs_dilation": (2,)}),
    ((1, 4, 5), (4, 2, 2), {"window_strides": (1,), "padding": [(0, 1)], "feature_group_count": 2}),
    ((4, 2, 5), (4, 2, 2), {"window_strides": (1,), "padding": [(0, 1)], "batch_group_count": 2}),
    ((2, 3, 4), (3, 3, 1), {"window_strides": (1,), "padding": [(0, 0)]}),
    ((2, 3, 5), (3, 3, 1), {"window_strides": (1,), "padding": [(1, -1)]}),
    ((2, 4, 4, 2), (2, 2, 2, 3), {"window_strides": (1, 2), "padding": "SAME",
                                  "dimension_numbers": ("NHWC", "HWIO", "NHWC")}),
    ((2, 3, 3, 2), (1, 1, 2, 3), {"window_strides": (1, 1), "padding": "VALID",
                                  "dimension_numbers": ("NHWC", "HWIO", "NHWC")}),
    ((1, 2, 5), (3, 2, 1), {"window_strides": (1,), "padding": [(0, 1)]}),  # a kernel of one point, padded
    # large enough for the filter's gradient by products
    ((8, 16, 16, 12), (3, 3, 12, 32), {"window_strides": (1, 1), "padding": "SAME",
                                       "dimension_numbers": ("NHWC", "HWIO", "NHWC")}),
    ((4, 16, 16, 12), (3, 3, 12, 48), {"window_strides": (1, 1), "padding": "SAME",
                                       "dimension_numbers": ("NHWC", "HWIO", "NHWC")}),
    ((16, 16, 4, 12), (3, 3, 12, 48), {"window_strides": (1, 1), "padding": "SAME",
                                       "dimension_numbers": ("HWNC", "HWIO", "HWNC")}),
    ((5, 12, 35, 20), (36, 12, 2, 3), {"window_strides": (2, 1), "padding": [(-1, 2), (2, -1)],
                                       "rhs_dilation": (2, 1)}),
    ((1, 35, 32, 11), (1, 3, 11, 32), {"window_strides": (1, 1), "padding": "VALID",
                                       "dimension_numbers": ("NHWC", "HWIO", "NHWC")}),
    ((1, 1, 3), (1, 1, 1), {"window_strides": (1,), "padding": [(0, 0)]}),
]
for _x, _w, _params in CONVOLUTIONS:
    add("conv_general_dilated", lambda x, w, p=_params: lax.conv_general_dilated(x, w, **p),
        normal(*_x), normal(*_w, seed=1))

# ---------------------------------------------------------------- Fourier transforms

add("fft", lambda x: (jnp.fft.fft(x), jnp.fft.ifft(x)), complex_normal(3, 4))
add("fft", lambda x: (jnp.fft.rfft(x), jnp.fft.rfft(x, 5), jnp.fft.rfft2(x)), normal(3, 4))
add("fft", jnp.fft.rfftn, normal(2, 2, 4))
add("fft", lambda x: (jnp.fft.irfft(x, 4), jnp.fft.irfft(x, 5), jnp.fft.irfft2(x, (3, 4))), complex_normal(3, 3))
