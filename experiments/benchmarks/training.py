"""What the framework costs: a GPT trained by `fb.train`, by bare loops, and in Flax.

    python experiments/benchmarks/training.py    # 5 minutes on 2 cores

Every contestant trains the same network on the same batches from the same parameters with the same optimizer, a run
each in turn, and their losses must agree. A run's time is that of its steps between two points at which the device has
nothing left to do, without compiling. The bare loops compute the loss alone; the framework also records loss and
gradient norm, looks at the shapes of the batches, and may evaluate and save.

- framework: `fb.train`, writing its folder.
- bare: the same backward in a loop of one line.
- jax: that loop with `jax.value_and_grad`.
- flax: the network of `flax.linen` layers, `flax.training.train_state.TrainState`, `jax.value_and_grad`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import transformer

VOCABULARY, LENGTH, WIDTH, LAYERS, HEADS, BATCH = 256, 64, 128, 3, 2, 16
WARM, TIMED = 10, 60
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def init(key: jax.Array) -> Any:
    return transformer.init(key, vocabulary=VOCABULARY, length=LENGTH, width=WIDTH, layers=LAYERS)


def loss(params: Any, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
    return losses.softmax_cross_entropy(transformer.apply(params, tokens[:, :-1], heads=HEADS), tokens[:, 1:])


def batch(step: int) -> np.ndarray:
    """Bytes of no sense: (batch, time + 1)."""
    return np.random.default_rng(step).integers(0, VOCABULARY, (BATCH, LENGTH + 1)).astype(np.int32)


class Run(NamedTuple):
    """Seconds of a step, and the loss of the last."""

    seconds: float
    loss: float


# ---------------------------------------------------------------- the contestants


def framework() -> Run:
    """`fb.train`; its evaluations are the points at which the device has nothing left to do."""
    marks = []
    experiment = fb.Experiment(
        name="gpt", init=init, loss=loss, batch=batch, optimizer=OPTIMIZER, steps=WARM + TIMED, seed=0,
        evaluate=lambda params: marks.append(time.perf_counter()) or {}, evaluate_every=WARM,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        fb.train(experiment, directory=directory, progress=False)
        last = [record for record in fb.read_metrics(f"{directory}/gpt") if "loss" in record][-1]["loss"]
    return Run((marks[-1] - marks[0]) / TIMED, last)


def bare(value_and_grad: Callable) -> Run:
    """A loop that does nothing but the steps."""

    def update(params, opt_state, tokens):
        value, gradient = value_and_grad(loss)(params, tokens)
        updates, opt_state = OPTIMIZER.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    update, params = jax.jit(update, donate_argnums=(0, 1)), initial_params()
    opt_state = OPTIMIZER.init(params)
    for step in range(WARM + TIMED):
        if step == WARM:
            jax.block_until_ready(params)
            start = time.perf_counter()
        params, opt_state, value = update(params, opt_state, batch(step))
    jax.block_until_ready(params)
    return Run((time.perf_counter() - start) / TIMED, float(value))


class Block(nn.Module):
    """A layer of GPT-2."""

    @nn.compact
    def __call__(self, x):  # (batch, time, width)
        y = nn.Dense(3 * WIDTH, name="qkv")(nn.LayerNorm(epsilon=1e-5, name="norm1")(x))
        q, k, v = (part.reshape(*x.shape[:-1], HEADS, -1) for part in jnp.split(y, 3, axis=-1))
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.Dense(WIDTH, name="projection")(nn.dot_product_attention(q, k, v, mask=mask).reshape(x.shape))
        y = nn.gelu(nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm(epsilon=1e-5, name="norm2")(x)))
        return x + nn.Dense(WIDTH, name="down")(y)


class GPT(nn.Module):
    """The network of `models.transformer` in Flax."""

    @nn.compact
    def __call__(self, tokens):  # (batch, time)
        token = nn.Embed(VOCABULARY, WIDTH, name="token")
        x = token(tokens) + nn.Embed(LENGTH, WIDTH, name="position")(jnp.arange(tokens.shape[-1]))
        for layer in range(LAYERS):
            x = Block(name=f"blocks_{layer}")(x)
        return token.attend(nn.LayerNorm(epsilon=1e-5, name="norm")(x))  # (batch, time, vocabulary)


def flax() -> Run:
    """Flax with optax, as its own examples have it."""

    def update(state, tokens):
        def loss(params):
            logits = state.apply_fn({"params": params}, tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradient), value

    update = jax.jit(update, donate_argnums=0)
    state = TrainState.create(apply_fn=GPT().apply, params=as_flax(initial_params()), tx=OPTIMIZER)
    for step in range(WARM + TIMED):
        if step == WARM:
            jax.block_until_ready(state.params)
            start = time.perf_counter()
        state, value = update(state, batch(step))
    jax.block_until_ready(state.params)
    return Run((time.perf_counter() - start) / TIMED, float(value))


def initial_params() -> Any:
    """Those of the experiment."""
    return init(jax.random.split(jax.random.key(0))[0])


def as_flax(params: Any) -> dict[str, Any]:
    """Our parameters under Flax's names."""

    def renamed(path: str, leaf: dict[str, Any]) -> dict[str, Any]:
        weight = "embedding" if path in ("token", "position") else "kernel"
        return {{"w": weight, "b": "bias"}.get(name, name): value for name, value in leaf.items()}

    blocks = {f"blocks_{i}": {k: renamed(k, v) for k, v in block.items()} for i, block in enumerate(params["blocks"])}
    return {path: renamed(path, leaf) for path, leaf in params.items() if path != "blocks"} | blocks


CONTESTANTS = {
    "framework": framework,
    "bare": lambda: bare(fb.value_and_grad),
    "jax": lambda: bare(jax.value_and_grad),
    "flax": flax,
}


# ---------------------------------------------------------------- measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as cache:  # each run traces again, but the programs are compiled once
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        runs = [{name: contestant() for name, contestant in CONTESTANTS.items()} for _ in range(rounds + 1)][1:]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))
    print(f"GPT of {parameters} parameters, {BATCH} x {LENGTH} tokens a step, on {jax.devices()[0]}")
    print(f"{'':10} {'a step':>10}   framework / this (quartiles)   last loss")
    rows = []
    for name in CONTESTANTS:
        seconds = np.array([run[name].seconds for run in runs])
        ratios = np.array([run["framework"].seconds for run in runs]) / seconds
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        rows.append({"name": name, "seconds": float(np.median(seconds)), "ratio": middle, "quartiles": [low, high]})
        rows[-1]["loss"] = runs[0][name].loss
        print(f"{name:10} {np.median(seconds) * 1e3:7.2f} ms   {middle:5.3f} ({low:.3f} to {high:.3f})"
              f"         {runs[0][name].loss:.6f}")  # fmt: skip
    apart = max(abs(row["loss"] - rows[1]["loss"]) for row in rows)
    assert apart < 1e-3, f"the contestants do not train the same network: losses differ by {apart}"
    path = Path("runs/benchmarks/training.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"jax": jax.__version__, "device": str(jax.devices()[0]), "rows": rows}, indent=1))
    print(f"saved to {path}")


if __name__ == "__main__":
    main()
