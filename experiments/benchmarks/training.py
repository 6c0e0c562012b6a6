"""What the framework costs: the GPT of `bytes_lm.py` trained by `fb.train`, by bare loops, and in Flax.

    python experiments/benchmarks/training.py    # 3 minutes on 2 cores

Every contestant trains the same network on the same batches from the same parameters with the same optimizer, and their
losses must agree. They take turns, thirty steps each, and a turn ends when the device has nothing left to do; a ratio
is one of two turns that follow each other. The bare loops compute the loss alone; the framework also records loss and
gradient norm, looks at the shapes of the batches, evaluates (nothing, here) and may save.

- framework: `fb.train`, writing its folder.
- bare: the same backward in a loop of one line.
- jax: that loop with `jax.value_and_grad`.
- flax: the network of `flax.linen` layers, `flax.training.train_state.TrainState`, `jax.value_and_grad`.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
TURN = 30  # steps
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.muon(0.02))


def init(key: jax.Array) -> Any:
    return transformer.init(key, vocabulary=VOCABULARY, length=LENGTH, width=WIDTH, layers=LAYERS)


def loss(params: Any, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
    return losses.softmax_cross_entropy(transformer.apply(params, tokens[:, :-1], heads=HEADS), tokens[:, 1:])


def batch(step: int) -> np.ndarray:
    """Bytes of no sense: (batch, time + 1)."""
    return np.random.default_rng(step).integers(0, VOCABULARY, (BATCH, LENGTH + 1)).astype(np.int32)


class Contestant:
    """Trains in a thread of its own, a turn when it is told to.

    `train(steps, pause) -> last loss` calls `pause()` after every turn, once the device has nothing left to do.
    """

    def __init__(self, train: Callable[[int, Callable[[], None]], float], turns: int):
        self.loss: float | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(train, turns), daemon=True)
        self._thread.start()

    def _run(self, train: Callable, turns: int) -> None:
        self._go.acquire()
        try:
            self.loss = train(TURN * turns, self._pause)
        finally:
            self._paused.release()

    def _pause(self) -> None:
        self._paused.release()
        self._go.acquire()

    def turn(self) -> tuple[float, float]:
        """Seconds a step, by the clock and of all processors together."""
        clock, processor = time.perf_counter(), time.process_time()
        self._go.release()
        self._paused.acquire()
        return (time.perf_counter() - clock) / TURN, (time.process_time() - processor) / TURN

    def finish(self) -> float:
        """Let it end; returns the last loss."""
        self._go.release()
        self._thread.join(60.0)
        if self._thread.is_alive():
            raise RuntimeError("a contestant has more turns than were asked for")
        return self.loss


# ---------------------------------------------------------------- the contestants


def framework(steps: int, pause: Callable[[], None]) -> float:
    """`fb.train`; it evaluates when the device has nothing left to do."""
    experiment = fb.Experiment(
        name="gpt", init=init, loss=loss, batch=batch, optimizer=OPTIMIZER, steps=steps, seed=0,
        evaluate=lambda params: pause() or {}, evaluate_every=TURN,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        fb.train(experiment, directory=directory, progress=False, trial=False)  # each evaluation ends a turn
        return [record for record in fb.read_metrics(f"{directory}/gpt") if "loss" in record][-1]["loss"]


def bare_loop(value_and_grad: Callable) -> Callable[[int, Callable[[], None]], float]:
    """A loop that does nothing but the steps."""

    def update(params, opt_state, tokens):
        value, gradient = value_and_grad(loss)(params, tokens)
        updates, opt_state = OPTIMIZER.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def train(steps, pause):
        compiled, params = jax.jit(update, donate_argnums=(0, 1)), initial_params()
        opt_state = OPTIMIZER.init(params)
        for step in range(steps):
            params, opt_state, value = compiled(params, opt_state, batch(step))
            if (step + 1) % TURN == 0:
                jax.block_until_ready(params)
                pause()
        return float(value)

    return train


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


def flax(steps: int, pause: Callable[[], None]) -> float:
    """Flax with optax, as its own examples have it."""

    def update(state, tokens):
        def loss(params):
            logits = state.apply_fn({"params": params}, tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradient), value

    update = jax.jit(update, donate_argnums=0)
    state = TrainState.create(apply_fn=GPT().apply, params=as_flax(initial_params()), tx=OPTIMIZER)
    for step in range(steps):
        state, value = update(state, batch(step))
        if (step + 1) % TURN == 0:
            jax.block_until_ready(state.params)
            pause()
    return float(value)


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
    "bare": bare_loop(fb.value_and_grad),
    "jax": bare_loop(jax.value_and_grad),
    "flax": flax,
}


# ---------------------------------------------------------------- measuring


def measure(rounds: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Seconds a step of each contestant, (rounds, 2), by the clock and of the processors; and its last loss."""
    contestants = {name: Contestant(train, rounds + 2) for name, train in CONTESTANTS.items()}
    turns: dict[str, list] = {name: [] for name in contestants}
    for number in range(rounds + 2):
        for name in list(contestants)[:: (-1) ** number]:  # there and back: nobody is always the first
            turns[name].append(contestants[name].turn())
    last = {name: contestant.finish() for name, contestant in contestants.items()}
    return {name: np.array(found)[2:] for name, found in turns.items()}, last  # the first compiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    times, last = measure(parser.parse_args().rounds)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))
    print(f"GPT of {parameters} parameters, {BATCH} x {LENGTH} tokens a step, on {jax.devices()[0]}")
    print(f"{'':10}{'a step':>11}   framework / this (quartiles)   of processor time      last loss")
    rows = []
    for name, seconds in times.items():
        clock, processor = (np.quantile(r, (0.25, 0.5, 0.75)).tolist() for r in (times["framework"] / seconds).T)
        rows.append({"name": name, "seconds": float(np.median(seconds[:, 0])), "clock": clock, "processor": processor})
        shown = (f"{middle:5.3f} ({low:.3f} to {high:.3f})" for low, middle, high in (clock, processor))
        print(f"{name:10}{rows[-1]['seconds'] * 1e3:8.2f} ms   {'        '.join(shown)}   {last[name]:.6f}")
    apart = max(abs(value - last["bare"]) for value in last.values())
    assert apart < 1e-3, f"the contestants do not train the same network: losses differ by {apart}"
    path = Path("runs/benchmarks/training.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"jax": jax.__version__, "device": str(jax.devices()[0]), "rows": rows}, indent=1))
    print(f"saved to {path}")


if __name__ == "__main__":
    main()
