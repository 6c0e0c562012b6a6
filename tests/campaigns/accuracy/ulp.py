"""The error of every pointwise rule in units in the last place, ours beside JAX's, against mpmath.

The cotangent is 1, so that a gradient is the derivative itself. A unit is the spacing of floats at the exact value; of
a complex one, at its modulus. XLA on the CPU takes denormal numbers as zero: a result that should be denormal may be
0, and a denormal operand may be taken as 0. Infinite results and NaN are counted where they are not as they should be.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from mpmath import mp

import fnbackprop as fb

from .derivatives import ROWS, Row
from .points import points
from .reasons import REASONS

MARGIN = 0.5  # ulp: by less, two derivatives of equal quality differ
LARGE = 10.0  # ulp: a larger error needs a reason, whatever JAX's is


@dataclass
class Worst:
    """The largest finite error and its point, and the points with a wrong infinity or NaN."""

    error: float = 0.0
    point: tuple[Any, ...] = ()
    wrong: tuple[tuple[Any, ...], ...] = ()

    def __str__(self) -> str:
        return f"{self.error:.3g}{f' and {len(self.wrong)} not finite' if self.wrong else ''}"


@dataclass
class Found:
    """A row of the table. `jax` is None where JAX refuses the derivative."""

    row: str
    dtype: str
    ours: Worst
    jax: Worst | None

    @property
    def key(self) -> str:
        return f"{self.row} {self.dtype}"

    @property
    def fault(self) -> str:
        """Why the row needs a reason; empty if it needs none."""
        ours, other = self.ours, self.jax
        if other and (ours.error > other.error + MARGIN or len(ours.wrong) > len(other.wrong)):
            return f"{ours} ulp at {(ours.wrong or [ours.point])[0]}, JAX {other}"
        return f"{ours} ulp at {(ours.wrong or [ours.point])[0]}" if ours.error > LARGE or ours.wrong else ""


def measure(row: Row, dtype: str) -> Found:
    operands = points(row.points, dtype)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        y, ours = _gradient(fb.vjp, row, operands)
        try:
            automatic = _gradient(jax.vjp, row, operands)[1]
        except (NotImplementedError, ValueError):  # it refuses
            automatic = None
    reads = (*operands, y) if row.reads_output else operands
    known = [_at(row.derivative, [x[i] for x in reads], dtype) for i in range(len(y))]
    worst = (None if got is None else _worst(got, known, operands, dtype) for got in (ours, automatic))
    return Found(row.name, dtype, *worst)


def _gradient(vjp: Callable, row: Row, operands: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    def both(*xs: Any) -> Any:
        def function(x: Any) -> Any:
            return row.function(*[x if i == row.wrt else other for i, other in enumerate(xs)])

        y, pullback = vjp(function, xs[row.wrt])
        return y, pullback(jnp.ones_like(y))[0]

    y, slope = jax.jit(both)(*operands)
    return np.asarray(y), np.asarray(slope)


# ---------------------------------------------------------------- the exact value


def _at(derivative: Callable, operands: Sequence[Any], dtype: str) -> list[Any]:
    """The exact values that are right at a point: at the operands and, if some are denormal, at zero in their place.
    None, if one of them is undefined."""
    exact = [_number(x) for x in operands]
    flushed = [0 * x if 0 < abs(x) < np.finfo(dtype).tiny else x for x in exact]
    values = [_settled(derivative, exact), *([_settled(derivative, flushed)] if flushed != exact else [])]
    return [] if None in values else values


def _number(x: Any) -> Any:
    return mp.mpc(complex(x)) if np.iscomplexobj(x) else mp.mpf(float(x))


def _settled(derivative: Callable, operands: list[Any]) -> Any:
    """Computed in twice the precision until that makes no difference in the first 80 bits; a zero, to the end: digits
    may have cancelled."""
    before = None
    for bits in (200, 400, 800, 1600, 3200):
        try:
            with mpmath.workprec(bits):
                value = mp.mpmathify(derivative(*operands) if derivative else None)
        except (ValueError, ZeroDivisionError, TypeError, mp.NoConvergence, OverflowError):
            return None
        real = not any(isinstance(x, mp.mpc) for x in operands)
        if value is None or (real and isinstance(value, mp.mpc)):
            return None
        if before is not None and _same(before, value) and (value != 0 or bits == 3200):
            return value
        before = value
    raise AssertionError(f"mpmath does not settle at {operands}")


def _same(a: Any, b: Any) -> bool:
    return (
        a == b
        or (mp.isnan(a) and mp.isnan(b))
        or (mp.isfinite(a) and mp.isfinite(b) and abs(a - b) <= abs(b) * mp.mpf(2) ** -80)
    )


# ---------------------------------------------------------------- its distance


def _worst(got: np.ndarray, known: list[list[Any]], operands: list[np.ndarray], dtype: str) -> Worst:
    worst = Worst()
    for i, values in enumerate(known):
        if not values:
            continue
        signless = any(abs(x[i]) < np.finfo(dtype).tiny for x in operands)
        error = min(ulps(got[i], value, dtype, signless) for value in values)
        point = tuple(x[i].item() for x in operands)
        if error == np.inf:
            worst.wrong += (point,)
        elif error > worst.error:
            worst.error, worst.point = error, point
    return worst


def ulps(got: Any, want: Any, dtype: str, signless: bool = False) -> float:
    """The distance in units in the last place; infinite where one is not finite and the other not the same.

    `signless`: at an operand of zero, whose sign the exact value does not know, either infinity."""
    info = np.finfo(dtype)
    got = _number(got)
    size = abs(want)
    if mp.isfinite(want) and size >= mp.mpf(float(info.max)) * (1 + mp.mpf(float(info.eps)) / 4):
        want = want if isinstance(want, mp.mpc) else mp.sign(want) * mp.inf
        if isinstance(want, mp.mpc):
            return 0.0 if not mp.isfinite(got) else np.inf
    if not (mp.isfinite(want) and mp.isfinite(got)):
        same = _same(got, want) or (signless and mp.isinf(got) and mp.isinf(want))
        return 0.0 if same else np.inf
    tiny = mp.mpf(float(info.tiny))
    if size < tiny and abs(got) <= tiny:
        return 0.0
    unit = mp.mpf(2) ** (mp.floor(mp.log(max(size, tiny), 2)) - info.nmant)
    return float(abs(got - want) / unit)


# ---------------------------------------------------------------- the table


def faults(found: Iterable[Found], reasons: dict[str, str]) -> list[str]:
    """Rows that need a reason and have none, and reasons that are needed no longer."""
    lines = []
    for f in found:
        if f.fault and f.key not in reasons:
            lines.append(f"{f.key}: {f.fault}, and no reason is given")
        if not f.fault and f.key in reasons:
            lines.append(f"{f.key}: {f.ours} ulp, its reason is needed no longer: {reasons[f.key]}")
    return lines


def line(found: Found) -> str:
    reason = f"   {REASONS[found.key]}" if found.key in REASONS else ""
    return f"{found.key:<42}{found.ours!s:<24}{str(found.jax or 'refused'):<24}{found.ours.point}{reason}"


def report(only: Sequence[str] = ()) -> bool:
    """Print the table, row by row, and what is wrong with it. Whether anything is."""
    print(f"{'primitive':<42}{'ours, ulp':<24}{'JAX':<24}largest at")
    found = []
    for row in ROWS.values():
        for dtype in row.dtypes if not only or row.name.split()[0] in only else ():
            found.append(measure(row, dtype))
            print(line(found[-1]), flush=True)
    wrong = faults(found, REASONS)
    print(*wrong, f"{len(found)} rows, {len(wrong)} faults", sep="\n")
    return bool(wrong)
