"""Loops, where a hand-written backward pays: the user's plain code, ours against `jax.value_and_grad`.

    python experiments/benchmarks/loops.py              # 10 minutes on 2 cores
    python experiments/benchmarks/loops.py --only lstm  # the workloads whose name holds a word

Ratios below 1 are in our favour: time is the median over interleaved rounds with its quartiles, memory the compiler's
account of temporary buffers. The scanned transformers are also measured under `jax.checkpoint` with its policies, and
ours with a budget of a fifth of the bytes that JAX stacks, and with the one that fits a quarter of JAX's memory. Saves
runs/benchmarks/loops.json and loops.png.
"""

import argparse
import functools
import time
from unittest import mock

import jax
import jax.numpy as jnp
import measuring
import numpy as np

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import transformer

RNG = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return jnp.asarray(RNG.normal(size=shape) * scale, jnp.float32)


def recurrent_params(hidden, gates):
    weights = {name: normal(hidden, gates * hidden, scale=hidden**-0.5) for name in ("input", "recurrent")}
    return weights | {"bias": jnp.zeros(gates * hidden)}


def rnn_states(p, xs):
    def cell(h, x):
        h = jnp.tanh(x @ p["input"] + h @ p["recurrent"] + p["bias"])
        return h, h

    return jax.lax.scan(cell, jnp.zeros((xs.shape[1], len(p["recurrent"])), xs.dtype), xs)[1]


def rnn(steps, batch, hidden):
    def loss(p, xs):
        return jnp.sum(rnn_states(p, xs) ** 2)

    return loss, (recurrent_params(hidden, 1), normal(steps, batch, hidden))


def lstm(steps, batch, hidden):
    def loss(p, xs):
        def cell(state, x):
            h, c = state
            i, f, g, o = jnp.split(x @ p["input"] + h @ p["recurrent"] + p["bias"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((batch, hidden))
        return jnp.sum(jax.lax.scan(cell, (zeros, zeros), xs)[1] ** 2)

    return loss, (recurrent_params(hidden, 4), normal(steps, batch, hidden))


def gru(steps, batch, hidden):
    def loss(p, xs):
        def cell(h, x):
            zx, rx, nx = jnp.split(x @ p["input"] + p["bias"], 3, axis=-1)
            zh, rh, nh = jnp.split(h @ p["recurrent"], 3, axis=-1)
            z, r = jax.nn.sigmoid(zx + zh), jax.nn.sigmoid(rx + rh)
            h = (1 - z) * jnp.tanh(nx + r * nh) + z * h
            return h, h

        return jnp.sum(jax.lax.scan(cell, jnp.zeros((batch, hidden)), xs)[1] ** 2)

    return loss, (recurrent_params(hidden, 3), normal(steps, batch, hidden))


def gpt(layers, width, time, batch, scan_layers=True):
    params = transformer.init(
        jax.random.key(0), vocabulary=256, length=time, width=width, layers=layers, scan_layers=scan_layers
    )
    tokens = jnp.asarray(RNG.integers(0, 256, (batch, time + 1)), jnp.int32)

    def loss(params, tokens):
        with mock.patch.object(transformer, "BY_TILES", np.inf):  # the plain definition, by both
            logits = transformer.apply(params, tokens[:, :-1], heads=width // 64)
        return losses.softmax_cross_entropy(logits, tokens[:, 1:])

    return loss, (params, tokens)


WORKLOADS = {
    "LSTM T256 B4 H512": lambda: lstm(256, 4, 512),
    "RNN T512 B1 H256": lambda: rnn(512, 1, 256),
    "GRU T256 B8 H256": lambda: gru(256, 8, 256),
    "LSTM T128 B32 H512": lambda: lstm(128, 32, 512),
    "RNN T128 B64 H512 (hoisting does not pay)": lambda: rnn(128, 64, 512),
}
UNROLLED = {"GPT unrolled L12 D128 T128 B4": (12, 128, 128, 4)}
SCANNED = {"GPT scanned L6 D384 T256 B8": (6, 384, 256, 8), "GPT scanned L4 D768 T512 B4": (4, 768, 512, 4)}
POLICIES = ("nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable")
BUDGET = 0.2  # of the bytes that JAX stacks
MEMORY = 0.25  # of JAX's temporary memory
FRACTION = 0.3  # of what a layer's backward reads


def scanned_rows(name, shape, rounds):
    """A scanned transformer: ours, ours with a budget, and JAX's best checkpoint policy as the baseline."""
    loss, args = gpt(*shape)
    layers, width, steps, batch = shape
    theirs, own = (stacked_bytes(lib, loss, args) for lib in (jax, fb))
    unit = 4 * layers * width * steps * batch
    print(f"{name}: stacked per token and layer, {theirs / unit:.1f} x D floats by jax.grad, ours {own / unit:.1f} x D")

    def within(budget):
        return measuring.compile_step(lambda fun: fb.value_and_grad(fun, budget=budget), loss, args)

    programs = [measuring.compile_step(jax.value_and_grad, loss, args), within(None), within(BUDGET * theirs)]
    memory = int(MEMORY * measuring.temp_bytes(programs[0]))
    programs.append(within(fb.fit_budget(loss, *args, memory=memory)))
    programs += [checkpointed_layers(policy, loss, args) for policy in POLICIES]
    times = measuring.in_turns(programs, args, rounds)
    best = 4 + int(np.argmin(np.median(times[:, 4:], axis=0)))
    pairs = {
        name: (0, 1),
        f"{name}, budget {BUDGET * theirs / 1e6:.0f} MB": (0, 2),
        f"{name}, fitted to {memory / 1e6:.0f} MB in all": (0, 3),
        f"{name}, of {POLICIES[best - 4]}": (best, 1),
    }
    rows = [
        measuring.compare(row, programs[a], programs[b], args, times[:, a], times[:, b])
        for row, (a, b) in pairs.items()
    ]
    return rows, {"name": name, "stacked_floats_of_width": {"jax": theirs / unit, "ours": own / unit}}


def checkpointed_layers(policy, loss, args):
    """The compiled step by JAX, each layer under `jax.checkpoint` with a policy."""
    policy = getattr(jax.checkpoint_policies, policy)
    return with_layers_in(functools.partial(jax.checkpoint, policy=policy, prevent_cse=False), jax, loss, args)


def with_layers_in(wrap, lib, loss, args, **options):
    """The compiled step of a transformer, each layer wrapped."""
    layer = wrap(transformer._apply_block, static_argnums=(2, 4))
    with mock.patch.object(transformer, "_apply_block", layer):
        gradient = functools.partial(lib.value_and_grad, **options)
        return measuring.compile_step(gradient, lambda *args: loss(*args), args)


def unrolled_rows(name, shape, rounds):
    """A transformer of layers in a Python loop: as it is, with jitted layers, and with `jax.checkpoint`."""
    loss, args = gpt(*shape, scan_layers=False)
    plain = [measuring.compile_step(lib.value_and_grad, loss, args) for lib in (jax, fb)]
    pairs = {
        name: plain,
        f"{name}, layers jitted, budget {FRACTION}": [
            with_layers_in(jax.jit, jax, loss, args),
            with_layers_in(jax.jit, fb, loss, args, budget=FRACTION),
        ],
        f"{name}, jax.checkpoint": [with_layers_in(jax.checkpoint, lib, loss, args) for lib in (jax, fb)],
    }
    return [measuring.measure(row, *programs, args, rounds) for row, programs in pairs.items()]


def stacked_bytes(lib, loss, args):
    """Bytes that the forward scan stacks for the backward, beside its carry."""
    equations = jax.make_jaxpr(lib.value_and_grad(loss))(*args).jaxpr.eqns
    scan = next(e for e in equations if e.primitive.name == "scan")
    return sum(v.aval.size * v.aval.dtype.itemsize for v in scan.outvars[1:])


def preparation_ratios(rounds=7):
    """Processor time to trace, and to compile, the unrolled transformer: medians of ours / JAX's."""
    loss, args = gpt(12, 128, 128, 4, scan_layers=False)

    def compiling(lib):
        traced = jax.jit(lib.value_and_grad(lambda *args: loss(*args))).trace(*args)
        start = time.process_time()
        traced.lower().compile()
        return time.process_time() - start

    times = np.array([[compiling(lib) for lib in (jax, fb)] for _ in range(rounds + 1)])[1:]
    return measuring.tracing(loss, args, (jax, fb)), float(np.median(times[:, 1] / times[:, 0]))


def while_programs(steps=1000, slots=44, width=128):
    """1000 steps of tanh(w @ h) in a while loop: (Equinox's checkpointed loop by jax.grad, ours of the plain loop)."""
    import equinox.internal as eqxi

    def loss(loop):
        def run(w, h):
            def step(state):
                i, h = state
                return i + 1, jnp.tanh(w @ h)

            return jnp.sum(loop(lambda state: state[0] < steps, step, (0, h))[1] ** 2)

        return run

    def checkpointed(cond, step, init):
        return eqxi.while_loop(cond, step, init, kind="checkpointed", checkpoints=slots)

    args = normal(width, width, scale=width**-0.5), normal(width)
    theirs = measuring.compile_step(jax.value_and_grad, loss(checkpointed), args)
    ours = measuring.compile_step(lambda fun: fb.value_and_grad(fun, checkpoints=slots), loss(jax.lax.while_loop), args)
    return theirs, ours, args


def low_precision_error(steps):
    """Relative error of a bfloat16 RNN's recurrent weight gradient against float64: (jax.grad's, ours, the least).

    The least is that of an exact backward pass through the states as the bfloat16 forward pass has them."""
    loss, args = rnn(steps, 4, 64)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), args)

    def gradient(lib, args):
        summed = lambda p, xs: loss(p, xs).astype(jnp.float32)  # noqa: E731
        return np.asarray(jax.jit(lib.grad(summed))(*args)["recurrent"], np.float64)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), low)
        exact = np.asarray(jax.jit(jax.grad(loss))(*wide)["recurrent"])
    found = [gradient(lib, low) for lib in (jax, fb)] + [exact_backward(*low)]
    return tuple(np.linalg.norm(gradient - exact) / np.linalg.norm(exact) for gradient in found)


def exact_backward(params, xs):
    """The recurrent weight's gradient in float64 from the states of a forward pass in the dtype of `xs`."""
    states = np.asarray(jax.jit(rnn_states)(params, xs), np.float64)
    weight, previous = np.asarray(params["recurrent"], np.float64), np.concatenate([0 * states[:1], states[:-1]])
    gradient, back = np.zeros_like(weight), np.zeros_like(states[0])
    for h, before in zip(states[::-1], previous[::-1], strict=True):
        inner = (back + 2 * h) * (1 - h**2)
        gradient, back = gradient + before.T @ inner, inner @ weight.T
    return gradient


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 0.5 * len(rows) + 1.5))
    measuring.draw_bars(axes, *zip(*((row.name, row.time, row.memory) for row in rows), strict=True))
    axes.set_xlabel("ratio, below 1 in our favour")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word in the workload's name")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rows, facts = measured(options.only.lower(), options.rounds)
    print()
    measuring.show(rows)
    if not options.only:
        facts["tracing"], facts["compiling"] = preparation_ratios()
        print(
            f"GPT unrolled L12: tracing {facts['tracing']:.2f}, compiling {facts['compiling']:.2f} of jax.grad's time"
        )
        facts["bfloat16"] = {steps: low_precision_error(steps) for steps in (64, 512, 4096)}
        for steps, (theirs, ours, least) in facts["bfloat16"].items():
            errors = f"jax.grad {theirs:.2%}, ours {ours:.2%}, an exact backward {least:.2%}"
            print(f"bfloat16 RNN T{steps}, error of dW against float64: {errors}")
    path = measuring.save(rows, "loops", **facts)
    plot(rows, path.with_suffix(".png"))
    print(f"saved to {path} and {path.with_suffix('.png')}")


def measured(only, rounds):
    """The rows of the workloads whose name holds a word, and what JAX and we stack."""
    rows, stacked = [], []
    for name, shape in SCANNED.items():
        if only in name.lower():
            found, facts = scanned_rows(name, shape, rounds)
            rows, stacked = rows + found, [*stacked, facts]
            measuring.show(found)
    for name, make in WORKLOADS.items():
        if only in name.lower():
            loss, args = make()
            programs = [measuring.compile_step(lib.value_and_grad, loss, args) for lib in (jax, fb)]
            rows.append(measuring.measure(name, *programs, args, rounds))
            measuring.show(rows[-1:])
    for name, shape in UNROLLED.items():
        if only in name.lower():
            rows += unrolled_rows(name, shape, rounds)
            measuring.show(rows[-3:])
    if only in "while loop":
        theirs, ours, args = while_programs()
        rows.append(measuring.measure("while loop, 1000 steps, 44 slots (of Equinox)", theirs, ours, args, rounds))
    return rows, {"stacked": stacked}


if __name__ == "__main__":
    main()
