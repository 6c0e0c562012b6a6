"""A GPT of scanned layers: the user's plain code, fused, and `models/transformer`, against JAX and PyTorch.

    python experiments/benchmarks/gpt.py                 # 25 minutes on 2 cores
    python experiments/benchmarks/gpt.py --only T1024    # the workloads whose name holds a word

Value and gradient in one interleaved run on the same data, in float32 and computed in bfloat16: `jax.value_and_grad` of
the plain definition (the baseline), ours, ours with `fuse=True`, `models/transformer` with its blocks, and PyTorch,
eager and under autocast, where it is installed. Ratios below 1 are in our favour. Saves runs/benchmarks/gpt.json and
gpt.png.
"""

import argparse
import functools
import importlib.util
from unittest import mock

import jax
import jax.numpy as jnp
import measuring
import numpy as np

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import transformer

RNG = np.random.default_rng(0)
VOCABULARY, HEAD = 256, 64
WORKLOADS = {  # layers, width, time, batch
    "GPT scan L6 D384 T256 B8": (6, 384, 256, 8),
    "GPT scan L6 D384 T1024 B2": (6, 384, 1024, 2),
    "GPT scan L4 D768 T512 B4": (4, 768, 512, 4),
}


def arguments(layers, width, time, batch):
    size = {"vocabulary": VOCABULARY, "length": time, "width": width, "layers": layers}
    params = transformer.init(jax.random.key(0), **size, scan_layers=True)
    return params, jnp.asarray(RNG.integers(0, VOCABULARY, (batch, time + 1)), jnp.int32)


def loss_of(width, dtype=None, plain=False):
    """With softmax(q kᵀ) v and logsumexp - logit written out if `plain`, else by the model's blocks."""

    def loss(params, tokens):
        with mock.patch.object(transformer, "BY_TILES", np.inf if plain else transformer.BY_TILES):
            logits = transformer.apply(params, tokens[:, :-1], heads=width // HEAD, dtype=dtype)
        return losses.softmax_cross_entropy(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), tokens[:, 1:])

    return loss


def operations_of(layers, width, time, batch):
    """Of the products, forward and backward; of the scores the lower triangle."""
    products = 12 * width**2 * layers + width * VOCABULARY
    return 6 * batch * time * (products + layers * width * time)


def compiled(shape, args):
    """The compiled value and gradient by name, the baseline first."""
    plain, model = loss_of(shape[1], plain=True), loss_of(shape[1])
    low, low_model = loss_of(shape[1], jnp.bfloat16, plain=True), loss_of(shape[1], jnp.bfloat16)
    fused = functools.partial(fb.value_and_grad, fuse=True)
    saved = fb.residuals(plain, *args, fuse=True).nbytes
    found = {
        "plain by jax.grad": (jax.value_and_grad, plain),
        "plain by fb.grad": (fb.value_and_grad, plain),
        "plain, fuse=True": (fused, plain),
        "plain, fuse=True, 3/4 of that saved": (functools.partial(fused, budget=saved * 3 // 4), plain),
        "models/transformer, fuse=True": (fused, model),
        "bfloat16, plain by jax.grad": (jax.value_and_grad, low),
        "bfloat16, plain, fuse=True": (fused, low),
        "bfloat16, models/transformer": (fused, low_model),
    }
    return {name: measuring.compile_step(transform, loss, args) for name, (transform, loss) in found.items()}


def exact(shape, args):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), args[0])
        program = jax.jit(jax.value_and_grad(loss_of(shape[1], plain=True)))
        return jax.tree.map(np.asarray, program(params, args[1]))


def torch_steps(shape, args):
    """Value and gradient by PyTorch with the same numbers, eager and under autocast; none where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch
    from torch.nn import functional

    width, tokens = shape[1], torch.tensor(np.asarray(args[1], np.int64))
    params = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), args[0])

    def norm(p, x):
        return functional.layer_norm(x, (width,), p["scale"], p["bias"])

    def linear(p, i, x):
        return x @ p["w"][i] + p["b"][i]

    def layer(x, p, i):
        norms = ({name: part[i] for name, part in p[norm_].items()} for norm_ in ("norm1", "norm2"))
        first, second = norms
        q, k, v = (
            part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in linear(p["qkv"], i, norm(first, x)).chunk(3, -1)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(p["projection"], i, y)
        y = functional.gelu(linear(p["up"], i, norm(second, x)), approximate="tanh")
        return x + linear(p["down"], i, y)

    def step(low):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            x = params["token"]["w"][tokens[:, :-1]] + params["position"]["w"][: tokens.shape[1] - 1]
            for i in range(shape[0]):
                x = layer(x, params["blocks"], i)
            logits = norm(params["norm"], x) @ params["token"]["w"].T
            loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        for leaf in jax.tree.leaves(params):
            leaf.grad = None
        return loss.item()

    return {"torch": lambda *_: step(False), "bfloat16, torch autocast": lambda *_: step(True)}


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    figure, axes = plt.subplots(1, len(workloads), figsize=(5 * len(workloads), 4), squeeze=False)
    for plane, workload in zip(axes[0], workloads, strict=True):
        own = [row for row in rows if row["workload"] == workload]
        memory = [row.get("temp_mib", 0) / own[0]["temp_mib"] for row in own]
        measuring.draw_bars(plane, [row["program"] for row in own], [row["time"] for row in own], memory)
        plane.set_title(workload)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower left", ncols=2)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word in the workload's name")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rates, rows = [measuring.product_rate(dtype) for dtype in (jnp.float32, jnp.bfloat16)], []
    print("products, float32 and bfloat16:", " and ".join(f"{rate / 1e9:.0f}" for rate in rates), "GFLOP/s")
    for name, shape in WORKLOADS.items():
        if options.only.lower() in name.lower():
            print(name, flush=True)
            args = arguments(*shape)
            programs = compiled(shape, args) | torch_steps(shape, args)
            rate = rates[0]  # of both: a share above 1 is what low precision gains
            found = measuring.rows_of(
                name, programs, args, exact(shape, args), operations_of(*shape), options.rounds, rate
            )
            rows += found
            for row in found:
                measuring.show_row(row)
    if rows:
        path = measuring.save((), "gpt", gpt=rows, product_gflops=[rate / 1e9 for rate in rates])
        plot(rows, path.with_suffix(".png"))
        print(f"saved to {path}")


if __name__ == "__main__":
    main()
