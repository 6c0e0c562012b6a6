"""What a gradient costs before it is compiled: tracing it, and one eager call; ours against `jax.value_and_grad`.

    python experiments/benchmarks/tracing.py    # 2 minutes on 2 cores

Ratios below 1 are in our favour: medians, over interleaved rounds, of processor time without garbage collection.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np
from steps import gpt

import fnbackprop as fb


def deep_mlp(layers: int):
    """tanh(x @ w + b) in a Python loop."""
    weights = [(jnp.ones((8, 8)), jnp.ones(8)) for _ in range(layers)]

    def loss(weights, x):
        for w, b in weights:
            x = jnp.tanh(x @ w + b)
        return jnp.sum(x * x)

    return loss, weights, jnp.ones((4, 8))


def eager_call(library: Any, loss: Callable, args: Sequence[Any]) -> Any:
    return jax.block_until_ready(library.value_and_grad(loss)(*args))


CASES = {  # name: (what is timed, the program, rounds)
    "tracing, MLP of 64 layers": (measuring.trace, partial(deep_mlp, 64), 25),
    "tracing, MLP of 512 layers": (measuring.trace, partial(deep_mlp, 512), 9),
    "tracing, MLP of 2048 layers": (measuring.trace, partial(deep_mlp, 2048), 5),
    "tracing, GPT of 12 layers": (measuring.trace, partial(gpt, 12), 15),
    "eager call, MLP of 3 layers": (eager_call, partial(deep_mlp, 3), 60),
    "eager call, MLP of 64 layers": (eager_call, partial(deep_mlp, 64), 25),
}


def main():
    rows = []
    for name, (action, make, rounds) in CASES.items():
        loss, *args = make()
        times = measuring.processor_seconds([partial(action, library, loss, args) for library in (jax, fb)], rounds)
        low, ratio, high = map(float, np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75)))
        milliseconds = float(np.median(times[:, 0])) * 1e3
        rows.append({"name": name, "baseline_ms": milliseconds, "ratio": ratio, "quartiles": (low, high)})
        print(f"{name:30} {milliseconds:8.1f} ms by jax.value_and_grad, ours {ratio:.2f} ({low:.2f} to {high:.2f})")
    path = Path("runs/benchmarks/tracing.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"jax": jax.__version__, "rows": rows}, indent=1))
    print(f"saved to {path}")


if __name__ == "__main__":
    main()
