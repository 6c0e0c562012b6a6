"""The points at which derivatives are taken: ordinary ones of every magnitude, and edges. Rounded to each dtype."""

import itertools
from collections.abc import Sequence

import numpy as np

_RANDOM = np.random.default_rng(12)
TINY = 1e-40, 5e-324  # denormal in float32, in float64 (and zero in float32)


def _both_signs(*xs: float) -> tuple[float, ...]:
    return tuple(s * float(x) for x in xs for s in (1, -1))


_ORDINARY = _RANDOM.uniform(0.1, 1, 24) * 10.0 ** np.arange(24).__mod__(3)  # up to 100
_SMALL = _RANDOM.uniform(1, 10, 12) * 10.0 ** -np.array([1, 2, 3, 4, 6, 8, 11, 15, 20, 28, 36, 300])
_LARGE = _RANDOM.uniform(1, 10, 10) * 10.0 ** np.array([2, 3, 4, 5, 8, 12, 18, 25, 36, 300])
_NEAR_ONE = [s + h for s in (0, 1, 2, 3) for h in (-0.25, -1e-3, -3e-7, -1e-15, 1e-15, 3e-7, 1e-3, 0.25) if s + h > 0]
_WHOLE = 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 10.0
_EDGES = *TINY, np.inf, float(np.finfo("float32").max), float(np.finfo("float32").tiny)
_EDGES64 = float(np.finfo("float64").max), float(np.finfo("float64").tiny)

REAL = (*_both_signs(*_ORDINARY, *_SMALL, *_LARGE, *_NEAR_ONE, *_WHOLE, *_EDGES, *_EDGES64), np.nan)
PAIRS = (*_both_signs(0.0, 0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 3.0, 7.3, 50.0, 1e-3, 1e-8, 1e-25, 1e-40, 1e5, 1e12, 1e25,
                      float(np.finfo("float32").max), np.inf), np.nan)  # fmt: skip
FEW = *_both_signs(0.0, 0.3, 0.5, 1.5, 1e-40, 1e30, np.inf), np.nan
CLAMP = -np.inf, -1e30, -0.5, 0.0, 0.5, 1.5, np.inf
UNIT = *np.round(_ORDINARY, 3), *_SMALL[:6], *_LARGE[:5]
ORDERS = 0.0, 1.0, 2.0, 5.0
ZETA_X, ZETA_Q = (1.01, 1.5, 2.0, 3.7, 12.0, 30.0), (1e-3, 0.3, 1.0, 2.5, 17.0, 300.0, 1e6)
GAMMA_A = 1e-3, 0.2, 0.7, 1.0, 1.5, 3.0, 12.3, 90.0
GAMMA_X = 0.0, 1e-8, 1e-3, 0.2, 0.9, 1.0, 2.5, 8.0, 15.0, 85.0, 100.0, np.inf
_COMPLEX = 1e-20, 1e-5, 0.3, 0.7, 1.0, 2.5, 9.0, 40.0, 1e4, 1e15
_COMPLEX_PAIRS = 1e-4, 0.7, 9.0


def points(parts: Sequence[Sequence[float]], dtype: str) -> list[np.ndarray]:
    """All combinations, one array for each operand. Complex operands have both parts of every size and sign, none 0:
    mpmath has no sign of zero, which chooses the side of a branch cut."""
    if np.issubdtype(dtype, np.complexfloating):
        sizes = _COMPLEX if len(parts) == 1 else _COMPLEX_PAIRS
        parts = [[complex(x, y) for x, y in itertools.product(_both_signs(*sizes), repeat=2)]] * len(parts)
    with np.errstate(over="ignore"):
        rounded = [list(dict.fromkeys(np.asarray(p).astype(dtype).tolist())) for p in parts]
    return [np.array(x, dtype) for x in zip(*itertools.product(*rounded), strict=True)]
