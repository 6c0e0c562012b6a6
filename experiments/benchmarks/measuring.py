"""Measure programs against each other: interleaved rounds, medians of ratios, temp memory by the compiler's account."""

import contextlib
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Measured(NamedTuple):
    """One workload: seconds of the baseline, and of ours the ratios to it."""

    name: str
    baseline_seconds: float
    time: float  # median over the rounds of ours / baseline
    spread: tuple[float, float]  # its quartiles
    memory: float  # temp bytes, ours / baseline
    error: float  # largest relative error of a leaf


def compile_step(transform: Callable, loss: Callable, args: Sequence[Any]) -> Any:
    """The compiled value and gradient of a loss."""
    return jax.jit(transform(loss)).lower(*args).compile()


def measure(name: str, baseline: Any, ours: Any, args: Sequence[Any], rounds: int = 15) -> Measured:
    """Run two compiled programs in turns."""
    return compare(name, baseline, ours, args, *in_turns((baseline, ours), args, rounds).T)


def in_turns(
    programs: Sequence[Any], args: Sequence[Any], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> np.ndarray:
    """Seconds of (rounds, programs) by a clock, after a round to warm up.

    Each program runs twice in its turn and the second run counts, as one step of training follows another: while the
    first runs, the temporary memory of the program before is given back to the system, up to a fifth of a run's time.
    """

    def second(program: Callable) -> float:
        seconds(program, args, clock)
        return seconds(program, args, clock)

    return np.array([[second(program) for program in programs] for _ in range(rounds + 1)])[1:]


def compare(name: str, baseline: Any, ours: Any, args: Sequence[Any], theirs: Any, own: Any) -> Measured:
    """Two programs and their seconds, round by round."""
    low, middle, high = map(float, np.quantile(own / theirs, (0.25, 0.5, 0.75)))
    memory = temp_bytes(ours) / max(temp_bytes(baseline), 1)
    error = largest_error(ours(*args), baseline(*args))
    return Measured(name, statistics.median(theirs), middle, (low, high), memory, error)


def seconds(program: Callable, args: Sequence[Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    jax.block_until_ready(program(*args))
    return clock() - start


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """No garbage collection within, as in `timeit`: one costs half of what is measured, and falls where it likes."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def processor_seconds(actions: Sequence[Callable[[], Any]], rounds: int) -> np.ndarray:
    """Processor time of (rounds, actions), run in turns without garbage collection, after two rounds to warm up."""

    def seconds(action: Callable[[], Any]) -> float:
        with without_collecting():
            start = time.process_time()
            action()
            return time.process_time() - start

    return np.array([[seconds(action) for action in actions] for _ in range(rounds + 2)])[2:]


def trace(library: Any, loss: Callable, args: Sequence[Any]) -> Any:
    """The jaxpr of value and gradient; of a new function each time, so that nothing is found in a cache."""
    return jax.make_jaxpr(library.value_and_grad(lambda *args: loss(*args)))(*args)


def tracing(loss: Callable, args: Sequence[Any], libraries: Sequence[Any], rounds: int = 15) -> float:
    """Processor time to trace value and gradient: median ratio of the second library to the first."""
    times = processor_seconds([lambda library=library: trace(library, loss, args) for library in libraries], rounds)
    return float(np.median(times[:, 1] / times[:, 0]))


def temp_bytes(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


def largest_error(found: Any, expected: Any) -> float:
    """The largest relative error of a leaf, in the 2-norm."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    pairs = [(np.asarray(a, np.complex128), np.asarray(b, np.complex128)) for a, b in pairs]
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300)) for a, b in pairs)


def product_rate(dtype: Any = np.float32, size: int = 1536, rounds: int = 5) -> float:
    """Floating-point operations a second of a product of matrices with a float32 result."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), dtype)
    product = jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=np.float32)).lower(x, x).compile()
    return 2 * size**3 / min(seconds(product, (x, x)) for _ in range(rounds))


def rows_of(
    name: str,
    programs: dict[str, Callable],
    args: Sequence[Any],
    truth: Any,
    operations: float,
    rounds: int,
    rate: float,
) -> list[dict[str, Any]]:
    """A workload's programs in turns, the first the baseline: time and ratio, temp memory if it is compiled, error, and
    share of the rate at which the machine multiplies matrices."""
    times = in_turns(list(programs.values()), args, rounds)
    found = []
    for i, (how, program) in enumerate(programs.items()):
        ratios, middle = times[:, i] / times[:, 0], float(np.median(times[:, i]))
        found.append({
            "workload": name, "program": how, "milliseconds": middle * 1e3,
            "time": float(np.median(ratios)), "quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
            "share_of_product_rate": operations / middle / rate,
        })  # fmt: skip
        if hasattr(program, "memory_analysis"):
            found[-1] |= {"temp_mib": temp_bytes(program) / 2**20, "error": largest_error(program(*args), truth)}
    return found


def show_row(row: dict[str, Any]) -> None:
    print(f"  {row['program']:34} {row['milliseconds']:8.1f} ms", end="")
    if "time" in row:
        low, high = row["quartiles"]
        print(f"   {row['time']:.2f} ({low:.2f} to {high:.2f})", end="")
        print(f"   {row['share_of_product_rate']:4.0%} of the product rate", end="")
    if "temp_mib" in row:
        print(f"   {row['temp_mib']:7.1f} MiB   error {row['error']:.0e}", end="")
    print(flush=True)


def draw_bars(axes: Any, names: Sequence[str], times: Sequence[float], memory: Sequence[float]) -> None:
    """Ratios of time and temp memory as bars on matplotlib's axes, with a line at 1, the first on top."""
    places = np.arange(len(names))
    axes.barh(places - 0.2, times, 0.38, label="time")
    axes.barh(places + 0.2, memory, 0.38, label="temp memory")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()


def show(rows: Sequence[Measured]) -> None:
    """The rows as a table, and as JSON under runs/benchmarks/."""
    print(f"{'workload':62} {'baseline':>10}   time (quartiles)      memory   error")
    for row in rows:
        low, high = row.spread
        print(
            f"{row.name:62} {row.baseline_seconds * 1e3:7.1f} ms   {row.time:4.2f} ({low:4.2f} to {high:4.2f})   "
            f"{row.memory:6.2f}   {row.error:.0e}"
        )


def save(rows: Sequence[Measured], name: str, **more: Any) -> Path:
    path = Path("runs/benchmarks") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"jax": jax.__version__, "device": str(jax.devices()[0])}
    path.write_text(json.dumps({**facts, "rows": [row._asdict() for row in rows], **more}, indent=1))
    return path
