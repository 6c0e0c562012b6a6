"""One small program per rule: its jitted gradient, time and temporary memory, ours against `jax.grad`.

    python experiments/benchmarks/rules.py               # 5 minutes on 2 cores
    python experiments/benchmarks/rules.py --only 'cum'  # the programs whose name matches a regular expression

Ratios below 1 are in our favour. A program's outputs are weighed by random numbers, so that no cotangent is constant;
its time is processor time, which other programs on the machine disturb least, the median of ratios over interleaved
rounds; its memory the compiler's account of temporary buffers. The table begins with the worst; below it stands why
each row above the goal is there. Saves runs/benchmarks/rules.json.
"""

import argparse
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import measuring
import numpy as np
from jax import lax

import fnbackprop as fb

RNG = np.random.default_rng(0)
MATRIX, IMAGES, SQUARE = (256, 512), (8, 32, 32, 16), (4, 48, 48)
NOISE = 0.05, 0.1  # a row above 1 + these, in time or memory, is marked
REASONS = {  # of the rows above the goal
    "asinh": "1/|x| where x² overflows; by jax.grad 0",
    "div": "two quotients, (dy/y)·(x/y); jax.grad divides once, by y², which leaves the range",
    "bessel_i0e": "a series for |x| above 10, where i1e - i0e, which is jax.grad's, cancels",
    "standardize": "XLA computes each row's factors again at each element, in the last kernel; jax.grad keeps them",
    "cond": "one kernel for exp and cos, and nothing kept; by jax.grad two kernels and two arrays",
    "reduce_min of x.T": "the winners are found in a branch, which takes x.T as it lies, and copies it",
}


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def positive(*shape):
    return jnp.asarray(RNG.uniform(0.5, 1.5, size=shape), jnp.float32)


def integers(high, *shape):
    return jnp.asarray(RNG.integers(0, high, shape), jnp.int32)


def definite(*shape):
    x = normal(*shape)
    return x @ jnp.swapaxes(x, -1, -2) + shape[-1] * jnp.eye(shape[-1])


def complex_normal(*shape):
    return normal(*shape) + 1j * normal(*shape)


ELEMENTWISE: dict[str, Callable] = {
    "tanh": jnp.tanh, "logistic": jax.nn.sigmoid, "exp": jnp.exp, "expm1": jnp.expm1, "sin": jnp.sin, "tan": jnp.tan,
    "sinh": jnp.sinh, "asinh": jnp.arcsinh, "atan": jnp.arctan, "erf": lax.erf, "abs": jnp.abs, "cbrt": jnp.cbrt,
    "integer_pow": lambda x: x**5, "relu": jax.nn.relu, "gelu": jax.nn.gelu, "clamp": lambda x: jnp.clip(x, -1, 1),
    "softplus": jax.nn.softplus, "select_n": lambda x: jnp.where(x > 0, jnp.sin(x), x * x),
}  # fmt: skip
POSITIVE: dict[str, Callable] = {
    "log": jnp.log, "log1p": jnp.log1p, "sqrt": jnp.sqrt, "rsqrt": lax.rsqrt, "lgamma": lax.lgamma,
    "digamma": lax.digamma, "bessel_i0e": lax.bessel_i0e, "erf_inv": lambda x: lax.erf_inv(x - 1),
}  # fmt: skip
PAIRS: dict[str, Callable] = {
    "mul": jnp.multiply, "div": jnp.divide, "pow": jnp.power, "max": jnp.maximum, "min": jnp.minimum,
    "atan2": jnp.arctan2, "rem": jnp.remainder, "logaddexp": jnp.logaddexp, "igamma": lax.igamma,
}  # fmt: skip
OF_ROWS: dict[str, Callable] = {
    "reduce_sum": lambda x: jnp.sum(x, 1), "reduce_prod": lambda x: jnp.prod(x, 1),
    "reduce_max": lambda x: jnp.max(x, 1), "reduce_min": lambda x: jnp.min(x, 1), "reduce_max of all": jnp.max,
    "reduce_max of columns": lambda x: jnp.max(x, 0), "reduce_min of x.T": lambda x: jnp.min(jnp.sin(x).T, axis=0),
    "logsumexp": lambda x: jax.nn.logsumexp(x, 1), "softmax": lambda x: jax.nn.softmax(x, 1),
    "softmax²": lambda x: jax.nn.softmax(x, 1) ** 2, "log_softmax": lambda x: jax.nn.log_softmax(x, 1),
    "standardize": lambda x: jax.nn.standardize(x, 1), "norm": lambda x: jnp.linalg.norm(x, axis=1),
    "var": lambda x: jnp.var(x, 1), "cumsum": lambda x: jnp.cumsum(x, 1), "cumprod": lambda x: jnp.cumprod(x, 1),
    "cummax": lambda x: lax.cummax(x, 1), "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 1),
    "cumlogsumexp of columns": lambda x: lax.cumlogsumexp(x, 0, reverse=True),
    "sort": lambda x: jnp.sort(x, 1), "top_k": lambda x: lax.top_k(x, 8)[0], "median": lambda x: jnp.median(x, 1),
    "transpose": lambda x: jnp.sin(x.T), "reshape": lambda x: jnp.sin(x.reshape(-1, 128)), "rev": lambda x: x[:, ::-1],
    "pad": lambda x: jnp.pad(x, 3), "concatenate": lambda x: jnp.concatenate([x, jnp.sin(x)], 1),
    "slice": lambda x: x[::2, 10:300], "split": lambda x: jnp.split(x, 4, 1)[1] * jnp.split(x, 4, 1)[2],
    "rfft, abs²": lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2, "irfft": lambda x: jnp.fft.irfft(lax.complex(x, x)),
    "convert_element_type": lambda x: jnp.sin(x.astype(jnp.bfloat16)).astype(jnp.float32),
}  # fmt: skip
OF_IMAGES: dict[str, Callable] = {
    "reduce_window_sum": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
    "reduce_window_max": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "image.resize": lambda x: jax.image.resize(x, (8, 16, 16, 16), "bilinear"),
}
OF_MATRICES: dict[str, Callable] = {
    "qr": lambda x: jnp.linalg.qr(x), "lu": lambda x: lax.linalg.lu(x)[0], "inv": jnp.linalg.inv,
    "det": jnp.linalg.det, "slogdet": lambda x: jnp.linalg.slogdet(x)[1], "expm": jax.scipy.linalg.expm,
    "svd": lambda x: jnp.linalg.svd(x, full_matrices=False)[1:],
    "matrix_power": lambda x: jnp.linalg.matrix_power(x, 3),
}  # fmt: skip
OF_DEFINITE: dict[str, Callable] = {"cholesky": jnp.linalg.cholesky, "eigh": jnp.linalg.eigh}


def conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def scan(x):
    return lax.scan(lambda c, row: (jnp.tanh(c + row), c * row), x[0], x)


def while_loop(x):
    return lax.fori_loop(0, 8, lambda i, y: jnp.sin(y), x)


def branch(costly):
    """A `cond` on data, of which the costly branch is taken."""

    def cheap(x):
        return jnp.broadcast_to(jnp.sum(x), jax.eval_shape(costly, x).shape)

    return lambda x: lax.cond(x[(0,) * x.ndim] < jnp.inf, costly, cheap, x)


def symmetric_values(x):
    return jnp.sum(jnp.linalg.eigh(x + jnp.swapaxes(x, -1, -2))[1] ** 3)


def singular_values(x):
    return jnp.sum(jnp.linalg.svd(x)[1])


def attention(x):
    scores = jnp.einsum("bqd,bkd->bqk", x, x) / 8
    return jax.nn.softmax(scores) @ x


def programs():
    """By name, each program with its arguments, of which the first is differentiated or, for a pair, both are."""
    found = {name: (fun, normal(*MATRIX)) for name, fun in (ELEMENTWISE | OF_ROWS).items()}
    found |= {name: (fun, positive(*MATRIX)) for name, fun in POSITIVE.items()}
    found |= {name: (fun, positive(*MATRIX), positive(*MATRIX)) for name, fun in PAIRS.items()}
    found |= {name: (fun, normal(*IMAGES)) for name, fun in OF_IMAGES.items()}
    found |= {name: (fun, normal(*SQUARE)) for name, fun in OF_MATRICES.items()}
    found |= {name: (fun, definite(*SQUARE)) for name, fun in OF_DEFINITE.items()}
    index, column = integers(256, 2048), integers(512, 256, 1)
    found |= {
        "max against a number": (lambda x: jnp.maximum(x, 0.5), normal(*MATRIX)),
        "max over a chain": (lambda x: jnp.max(jnp.tanh(jnp.sin(x) * 3), 1), normal(*MATRIX)),
        "abs of complex": (jnp.abs, complex_normal(*MATRIX)), "exp of complex": (jnp.exp, complex_normal(*MATRIX)),
        "fft": (jnp.fft.fft, complex_normal(*MATRIX)),
        "dot_general": (jnp.matmul, normal(256, 256), normal(256, 256)),
        "dot_general of a batch": (jnp.matmul, normal(16, 64, 64), normal(16, 64, 64)),
        "dot_general in bfloat16": (jnp.matmul, *(normal(256, 256).astype(jnp.bfloat16) for _ in range(2))),
        "conv_general_dilated": (conv, normal(*IMAGES), normal(3, 3, 16, 16)),
        "conv_general_dilated, 64 features": (conv, normal(32, 32, 32, 64), normal(3, 3, 64, 64)),
        "conv_general_dilated of one point": (conv, normal(8, 32, 32, 64), normal(1, 1, 64, 128)),
        "gather of rows": (lambda x: x[index], normal(*MATRIX)),
        "gather along an axis": (lambda x: jnp.take_along_axis(x, column, 1), normal(*MATRIX)),
        "scatter": (lambda x, y: x.at[index[:128]].set(y), normal(*MATRIX), normal(128, 512)),
        "scatter-add": (lambda x, y: x.at[index[:128]].add(y), normal(*MATRIX), normal(128, 512)),
        "scatter-max": (lambda x, y: x.at[index[:128]].max(y), normal(*MATRIX), normal(128, 512)),
        "dynamic_slice": (lambda x: lax.dynamic_slice(x, (index[0], 3), (100, 256)), normal(*MATRIX)),
        "segment_sum": (lambda x: jax.ops.segment_sum(x, index[:256], 64), normal(*MATRIX)),
        "solve": (jnp.linalg.solve, definite(*SQUARE), normal(4, 48, 48)),
        "triangular_solve": (jax.scipy.linalg.solve_triangular, definite(96, 96), normal(96, 96)),
        "scan": (scan, normal(*MATRIX)), "fori_loop": (while_loop, normal(*MATRIX)),
        "checkpoint": (jax.checkpoint(lambda x: jnp.sin(jnp.tanh(x @ x.T))), normal(256, 256)),
        "cond": (branch(lambda x: jnp.sin(jnp.exp(x))), normal(*MATRIX)),
        "cond with sort": (branch(lambda x: jnp.sort(x, 1) ** 2), normal(*MATRIX)),
        "cond with svd": (branch(singular_values), normal(*SQUARE)),
        "cond with eigh": (branch(symmetric_values), normal(*SQUARE)),
        "cond with a product": (branch(lambda x: jnp.tanh(x @ x)), normal(256, 256)),
        "vmap of cond": (jax.vmap(branch(lambda x: jnp.sin(x) * x)), normal(*MATRIX)),
        "attention": (attention, normal(8, 128, 64)),
    }  # fmt: skip
    return found


def loss_of(fun, args):
    """The outputs of `fun` times fixed random weights, added up; and the arguments with the weights behind."""
    outputs = [y for y in jax.tree.leaves(jax.eval_shape(fun, *args)) if jnp.issubdtype(y.dtype, jnp.inexact)]
    weights = [jnp.asarray(RNG.normal(size=y.shape), y.dtype) for y in outputs]

    def loss(args, weights):
        ys = [y for y in jax.tree.leaves(fun(*args)) if jnp.issubdtype(y.dtype, jnp.inexact)]
        return sum(jnp.sum(jnp.real(y * w).astype(jnp.float32)) for y, w in zip(ys, weights, strict=True))

    return loss, (args, weights)


def measure(name, both, operands, seconds):
    """As many rounds as go into so many seconds, from 5 to 101."""
    slowest = max(measuring.in_turns(both, operands, 1, time.process_time)[0])
    rounds = int(np.clip(seconds / slowest / 4, 5, 101))
    with measuring.without_collecting():
        times = measuring.in_turns(both, operands, rounds, time.process_time)
    return measuring.compare(name, *both, operands, *times.T)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="a regular expression for the programs' names")
    parser.add_argument("--seconds", type=float, default=0.4, help="of processor time for each program")
    options = parser.parse_args()
    rows = []
    for name, (fun, *args) in programs().items():
        if re.search(options.only, name):
            loss, operands = loss_of(fun, args)
            both = [measuring.compile_step(library.grad, loss, operands) for library in (jax, fb)]
            rows.append(measure(name, both, operands, options.seconds))
            print(f"{name}: {rows[-1].time:.2f}, memory {rows[-1].memory:.2f}", flush=True)
    rows.sort(key=lambda row: -max(row.time - NOISE[0], row.memory - NOISE[1]))
    measuring.show(rows)
    above = [row.name for row in rows if row.time > 1 + NOISE[0] or row.memory > 1 + NOISE[1]]
    limits = f"above {1 + NOISE[0]} in time or {1 + NOISE[1]} in memory"
    print(f"{len(rows)} programs; {limits}: {len(above) or 'none'}")
    for name in above:
        print(f"  {name}: {REASONS.get(name, 'no reason is known: noise?')}")
    print(f"saved to {measuring.save(rows, 'rules')}")


if __name__ == "__main__":
    main()
