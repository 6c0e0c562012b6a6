"""Eleven programs of a researcher's day, by `fb.train` and by a bare loop of the same steps: the whole time of each.

    python experiments/benchmarks/programs.py                        # 12 minutes on 2 cores
    python experiments/benchmarks/programs.py --only vae gan --rounds 1

Each run is a process of its own, in turns, with nothing compiled before; imports do not count, compiling, evaluating
and all that `fb.train` writes (metrics, checkpoint, model, curves, report) do. The bare loop is `jax.value_and_grad`
and optax in one jitted step, and the same evaluations; it writes nothing. The loss of the first step must be the same.
"""

import argparse
import dataclasses
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import mlp
from fnbackprop.training import data
from fnbackprop.training.step.partial_optimizer import flags_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # the experiments themselves


def of_file(name: str, **options: Any) -> fb.Experiment:
    """The experiment of a file, with its own sizes."""
    module = importlib.import_module(name)
    return module.experiment(module.Config(**options))


# ---------------------------------------------------------------- those that no file has


def fine_tuning() -> fb.Experiment:
    """The last layer of a network of which the others stay."""
    return dataclasses.replace(of_file("finetune"), name="fine_tuning", trainable="layers/2")


def lora() -> fb.Experiment:
    """Adapters beside a network that stays, which here was not trained."""
    made = of_file("finetune")

    def init(key):
        base = made.init(key)
        return {"base": base, "lora": fb.lora.init(key, base, rank=4, where="layers/*/w")}

    return dataclasses.replace(of_file("finetune", task="turned"), name="lora", init=init, steps=500)


def classifier(name: str, init: Callable, apply: Callable) -> fb.Experiment:
    """A network of any library on the digits."""
    images, labels = data.digits()
    images = images.reshape(-1, 64)

    def loss(params, batch, key):
        return losses.softmax_cross_entropy(apply(params, batch["images"]), batch["labels"])

    @jax.jit
    def evaluate(params):
        return {"accuracy": jnp.mean(apply(params, images).argmax(axis=-1) == labels)}

    batch = data.shuffled({"images": images, "labels": labels}, batch_size=64)
    functions = {"init": init, "loss": loss, "batch": batch, "evaluate": evaluate, "optimizer": optax.adam(1e-3)}
    return fb.Experiment(name=name, steps=1000, evaluate_every=250, **functions)


def linen() -> fb.Experiment:
    import flax.linen as nn

    network = nn.Sequential([nn.Dense(256), nn.relu, nn.LayerNorm(), nn.Dense(128), nn.relu, nn.Dense(10)])
    return classifier("linen", lambda key: network.init(key, jnp.zeros((1, 64))), network.apply)


def nnx() -> fb.Experiment:
    from flax import nnx

    def network(rngs):
        return nnx.Sequential(nnx.Linear(64, 256, rngs=rngs), nnx.relu, nnx.LayerNorm(256, rngs=rngs),
                              nnx.Linear(256, 128, rngs=rngs), nnx.relu, nnx.Linear(128, 10, rngs=rngs))  # fmt: skip

    graph = nnx.graphdef(nnx.eval_shape(lambda: network(nnx.Rngs(0))))
    init = lambda key: nnx.split(network(nnx.Rngs(key)), nnx.Param)[1]  # noqa: E731
    return classifier("nnx", init, lambda params, x: nnx.merge(graph, params)(x))


def equinox() -> fb.Experiment:
    import equinox as eqx

    network = lambda key: eqx.nn.MLP(64, 10, 256, 2, key=key)  # noqa: E731
    _, static = eqx.partition(network(jax.random.key(0)), eqx.is_inexact_array)
    init = lambda key: eqx.filter(network(key), eqx.is_inexact_array)  # noqa: E731
    return classifier("equinox", init, lambda params, x: jax.vmap(eqx.combine(params, static))(x))


def neural_ode() -> fb.Experiment:
    """The right side of a differential equation, learned from spirals: Runge-Kutta of 32 steps in a scan."""
    matrix, count, interval = np.float32([[-0.1, 2.0], [-2.0, -0.1]]), 32, 0.1

    def solve(right_side, start):
        def step(y, _):
            one = right_side(y)
            two = right_side(y + interval / 2 * one)
            three = right_side(y + interval / 2 * two)
            four = right_side(y + interval * three)
            y = y + interval / 6 * (one + 2 * two + 2 * three + four)
            return y, y

        return jax.lax.scan(step, start, None, length=count)[1]  # (count, batch, 2)

    def apply(params, start):
        return solve(lambda y: mlp.apply(params, y**3, activation=jnp.tanh), start)

    def loss(params, batch, key):
        return jnp.mean((apply(params, batch["start"]) - batch["path"]) ** 2)

    true = jax.jit(lambda start: solve(lambda y: y**3 @ matrix, start))

    def batch(step):
        start = np.random.default_rng(step).uniform(-1.5, 1.5, (64, 2)).astype(np.float32)
        return {"start": start, "path": np.asarray(true(start))}

    evaluate = jax.jit(lambda params: {"error": loss(params, held_out, None)})
    held_out = batch(10**6)
    functions = {"loss": loss, "batch": batch, "evaluate": evaluate, "optimizer": optax.adam(3e-3)}
    init = lambda key: mlp.init(key, inputs=2, hidden=(64, 64), outputs=2)  # noqa: E731
    return fb.Experiment(name="neural_ode", init=init, steps=500, evaluate_every=100, **functions)


PROGRAMS: dict[str, Callable[[], fb.Experiment]] = {
    "vae": lambda: of_file("vae"),
    "gan": lambda: of_file("gan"),
    "batch_norm": lambda: of_file("batch_norm"),
    "fine_tuning": fine_tuning,
    "lora": lora,
    "linen": linen,
    "nnx": nnx,
    "equinox": equinox,
    "physics": lambda: of_file("physics"),
    "policy_gradient": lambda: of_file("policy_gradient"),
    "neural_ode": neural_ode,
}


# ---------------------------------------------------------------- the two ways


def framework(experiment: fb.Experiment) -> float:
    """By `fb.train`, with everything that it writes; returns the first loss."""
    with tempfile.TemporaryDirectory() as directory:
        fb.train(experiment, directory=directory, progress=False)
        return fb.read_metrics(f"{directory}/{experiment.name}")[0]["loss"]


def bare(experiment: fb.Experiment) -> float:
    """By a loop that does nothing but the steps and the evaluations; returns the first loss."""
    init_key, loss_key = experiment.keys()
    params, model_state = experiment.initial(init_key)
    parts = experiment.parts
    opt_states = {name: part.optimizer.init(trained(part, params)[0]) for name, part in parts.items()}
    step = jax.jit(bare_step(experiment), donate_argnums=0)
    state, every, first = (params, model_state, opt_states, params if experiment.ema else None), None, None
    state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
    every = experiment.evaluate_every or experiment.steps
    for number in range(experiment.steps):
        state, value = step(state, experiment.batch(number), loss_key, number)
        first = value if number == 0 else first
        if (number + 1) % every == 0 or number + 1 == experiment.steps:
            averaged = state[0] if experiment.ema is None else state[3]
            jax.block_until_ready(experiment.evaluate(averaged, *([state[1]] if experiment.has_state else [])))
    return float(first)


def trained(part: fb.Experiment, params: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves that are trained, and how they become the whole tree again."""
    leaves, structure = jax.tree.flatten(params)
    patterns = part.trainable
    if patterns is None:
        return leaves, structure.unflatten
    flags = flags_of(params, [patterns] if isinstance(patterns, str) else patterns)

    def whole(own: list[Any]) -> Any:
        given = iter(own)
        return structure.unflatten([next(given) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)])

    return [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag], whole


def bare_step(experiment: fb.Experiment) -> Callable[..., Any]:
    """`step(state, batch, key, number) -> (state, loss)`, of all updates one after the other."""
    parts, times = experiment.parts, {update.name: update.times for update in experiment.updates}

    def update(part, params, model_state, opt_state, batch, key):
        own, whole = trained(part, params)

        def loss(own):
            found = part.outcome(whole(own), batch, key, model_state)
            return found.value, found.model_state

        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(own)
        updates, opt_state = part.optimizer.update(gradient, opt_state, own)
        return whole(optax.apply_updates(own, updates)), model_state, opt_state, value

    def step(state, batch, key, number):
        params, model_state, opt_states, average = state
        found = []
        for name, part in parts.items():
            own_key = jax.random.fold_in(key, zlib.crc32(name.encode())) if name else key
            for time_ in range(times.get(name, 1)):  # as fb.Update derives its keys
                at = jax.random.fold_in(own_key, time_) if times.get(name, 1) > 1 else own_key
                args = params, model_state, opt_states[name], batch, jax.random.fold_in(at, number)
                params, model_state, own, value = update(part, *args)
                opt_states = opt_states | {name: own}
            found.append(value)
        if average is not None:
            average = optax.incremental_update(params, average, 1 - experiment.ema)
        return (params, model_state, opt_states, average), sum(found)

    return step


# ---------------------------------------------------------------- measuring


def one_run(contestant: str, program: str) -> tuple[float, float]:
    """(seconds, first loss) of a process of its own."""
    command = [sys.executable, __file__, "--contestant", contestant, "--only", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, loss = done.stdout.splitlines()[-1].split()
    return float(seconds), float(loss)


def measure(program: str, rounds: int) -> dict[str, Any]:
    """The bare loop's seconds, and the ratio in each round."""
    pairs = []
    for number in range(rounds):
        order = ("bare", "framework")[:: (-1) ** number]
        found = {contestant: one_run(contestant, program) for contestant in order}
        (theirs, expected), (ours, first) = found["bare"], found["framework"]
        assert abs(first - expected) <= 1e-3 * abs(expected) + 1e-5, f"{program}: {first} and {expected} differ"
        pairs.append((theirs, ours))
    ratios = [ours / theirs for theirs, ours in pairs]
    return {"name": program, "bare": statistics.median(t for t, _ in pairs), "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--contestant", choices=["bare", "framework"], help="one run, in this process")
    options = parser.parse_args()
    if options.contestant:
        experiment = PROGRAMS[options.only[0]]()
        began = time.perf_counter()
        loss = {"bare": bare, "framework": framework}[options.contestant](experiment)
        print(time.perf_counter() - began, loss)
        return
    rows = []
    print(f"{'program':18}{'bare loop':>10}   fb.train, of it")
    for program in options.only:
        rows.append(measure(program, options.rounds))
        row, found = rows[-1], sorted(rows[-1]["ratios"])
        print(
            f"{program:18}{row['bare']:8.2f} s   {statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})",
            flush=True,
        )
    path = Path("runs/benchmarks/programs.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"jax": jax.__version__, "device": str(jax.devices()[0]), "rows": rows}, indent=1))
    print(f"saved to {path}")


if __name__ == "__main__":
    jnp.zeros(3).block_until_ready()  # the device is there before the clock starts
    main()
