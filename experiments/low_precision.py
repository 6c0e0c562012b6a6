"""What adding up in bfloat16 does to a gradient, and how little is needed to keep it whole.

    python experiments/low_precision.py        # 20 s on 2 cores

A weight that is used at every step of a loop has a gradient that is a sum over the steps. `jax.grad` adds it up inside
the reverse loop, in the weight's own dtype: in bfloat16, which has 8 bits, a sum soon stops growing because what is
added is less than half of its last bit. `fb.grad` lets the operands leave the loop and adds them up in float32. The
error is against the same gradient in float64, for an LSTM whose parameters and inputs are bfloat16, in its plain
definition: `lstm.apply` runs a block, whose backward by hand adds up in float32 under `jax.grad` too. The picture is
runs/low_precision.png. Expected last line:

    off by 22.8% by jax.grad and by 0.3% by fb.grad, both in bfloat16
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.blocks.lstm import lstm as lstm_block
from fnbackprop.models import lstm

PICTURE = Path("runs/low_precision.png")


@dataclasses.dataclass(frozen=True)
class Config:
    """The network and how long it runs."""

    hidden: int = 64
    """Width of the LSTM's state."""
    batch_size: int = 8
    """Sequences at once."""
    longest: int = 2048
    """Steps of the longest sequence; each one before it has a quarter."""
    seed: int = 0
    """Of parameters and inputs."""


def loss(params, batch):
    """How far the outputs are from the targets, on average over all steps."""
    (layer,), x = params["layers"], jnp.moveaxis(batch["inputs"], 1, 0)  # (length, batch, hidden)
    h, c = lstm.initial_state(params, x.shape[1:2], x.dtype)
    weights = layer["input"]["w"], layer["input"]["b"], layer["recurrent"]["w"], None
    outputs, _ = lstm_block.plain(x, *weights, (h[0], c[0]))
    return losses.mean_squared_error(jnp.moveaxis(outputs, 0, 1), batch["targets"])


def sequences(config: Config, length: int) -> dict[str, np.ndarray]:
    """Random inputs, and targets that do not cancel: (batch, length, hidden) each."""
    random = np.random.default_rng(config.seed)
    shape = (config.batch_size, length, config.hidden)
    return {"inputs": random.normal(size=shape), "targets": 0.5 + 0.1 * random.normal(size=shape)}


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def errors(config: Config, length: int) -> dict[str, float]:
    """The relative error of the recurrent weight's bfloat16 gradient, by each of the two."""
    params = lstm.init(jax.random.key(config.seed), inputs=config.hidden, hidden=config.hidden)
    low = cast((params, sequences(config, length)), jnp.bfloat16)
    with jax.enable_x64(True):
        truth = np.asarray(jax.jit(jax.grad(loss))(*cast(low, jnp.float64))["layers"][0]["recurrent"]["w"])
    found = {}
    for name, grad in (("jax.grad", jax.grad), ("fb.grad", fb.grad)):
        gradient = np.asarray(jax.jit(grad(loss))(*low)["layers"][0]["recurrent"]["w"], np.float64)
        found[name] = float(np.linalg.norm(gradient - truth) / np.linalg.norm(truth))
    return found


def draw(rows: dict[int, dict[str, float]]) -> None:
    """The errors over the length of the sequence."""
    figure = Figure(figsize=(6.5, 4), dpi=120, layout="constrained")
    panel = figure.subplots()
    for name in next(iter(rows.values())):
        panel.loglog(list(rows), [row[name] for row in rows.values()], marker="o", label=name)
    panel.axhline(2.0**-8, color="gray", linestyle=":", label="one rounding to bfloat16")
    panel.set(xlabel="steps of the sequence", ylabel="relative error of the weight's gradient")
    panel.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


def show(config: Config) -> None:
    """A row for each length, and the picture."""
    lengths = [config.longest // 4**power for power in reversed(range(4))]
    print("steps    jax.grad    fb.grad")
    rows = {}
    for length in lengths:
        rows[length] = errors(config, length)
        print(f"{length:5}  {rows[length]['jax.grad']:10.2%} {rows[length]['fb.grad']:10.2%}")
    draw(rows)
    last = rows[config.longest]
    print(f"\n{PICTURE}")
    print(f"off by {last['jax.grad']:.1%} by jax.grad and by {last['fb.grad']:.1%} by fb.grad, both in bfloat16")


if __name__ == "__main__":
    import tyro

    show(tyro.cli(Config, description=__doc__))
