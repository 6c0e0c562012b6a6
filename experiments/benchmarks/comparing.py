"""How long `fb.compare` takes, and how much memory, for a right transformer of some 10 million parameters in float32.

    python experiments/benchmarks/comparing.py                   # under a minute on 2 cores
    python experiments/benchmarks/comparing.py --layers 2 --width 64

Prints the comparison, then wall and processor time, and the peak memory of the whole process.
"""

import argparse
import resource
import time

import jax

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import transformer

VOCABULARY, HEADS = 256, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, number in {"width": 384, "layers": 6, "batch": 4, "length": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()
    size = {"vocabulary": VOCABULARY, "length": options.length, "width": options.width, "layers": options.layers}
    params = transformer.init(jax.random.key(0), **size)
    tokens = jax.random.randint(jax.random.key(1), (options.batch, options.length + 1), 0, VOCABULARY)

    def loss(params, tokens):
        return losses.softmax_cross_entropy(transformer.apply(params, tokens[:, :-1], heads=HEADS), tokens[:, 1:])

    wall, processor = time.perf_counter(), time.process_time()
    result = fb.compare(loss, params, tokens)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(result)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\n{result.verdict}: {count / 1e6:.1f} million parameters, {result.audited} equations: {wall:.0f} s wall, "
        f"{processor:.0f} s of processor, peak {peak:.1f} GB"
    )


if __name__ == "__main__":
    main()
