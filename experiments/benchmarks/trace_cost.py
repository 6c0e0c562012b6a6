"""What a trace costs: the gradient's compiled step with the statistics of all it computes, against the step alone.

    python experiments/benchmarks/trace_cost.py    # 8 minutes on 2 cores

Times are medians of interleaved rounds; memory is the compiler's account of temporary buffers; then the seconds to
trace and compile each. Last, `fb.watch`: what a run pays that looks every 100 steps.
"""

import argparse
import time
from functools import partial

import jax
import loops
import measuring
import steps

import fnbackprop as fb
from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.tracing.compiled import compile_gradient
from fnbackprop.tracing.recorder import Recorder

WORKLOADS = {
    "GPT scanned L6 D384 T256 B8 (10.8 million parameters)": partial(loops.gpt, 6, 384, 256, 8),
    "GPT L4 D128 T128 B8, unrolled": lambda: (lambda loss, *args: (loss, args))(*steps.gpt()),
    "LSTM T256 B4 H512": partial(loops.lstm, 256, 4, 512),
    "LSTM T128 B32 H512": partial(loops.lstm, 128, 32, 512),
    "LSTM T64 B32 H128": lambda: (lambda loss, *args: (loss, args))(*steps.recurrent()),
}


def observed(loss, args):
    """The compiled step that returns statistics too, as a function of the arguments."""
    closed = trace_program(make_program(loss, args, 0, False))
    found = compile_gradient(closed, Recorder(lambda record: False), {})

    def step(*args):
        return found.program(found.constants, jax.tree.leaves(args))

    return step, found


def measure(name, loss, args, rounds):
    start = time.perf_counter()
    plain = measuring.compile_step(fb.value_and_grad, loss, args)
    middle = time.perf_counter()
    step, found = observed(loss, args)
    seconds = middle - start, time.perf_counter() - middle
    times = measuring.in_turns((plain, step), args, rounds)
    ratios = times[:, 1] / times[:, 0]
    ratios.sort()
    memory = [measuring.temp_bytes(program) / 1e6 for program in (plain, found.program)]
    row = {
        "name": name,
        "step_ms": 1e3 * float(sorted(times[:, 0])[rounds // 2]),
        "time": float(ratios[rounds // 2]),
        "quartiles": (float(ratios[rounds // 4]), float(ratios[-1 - rounds // 4])),
        "temp_mb": memory,
        "prepare_s": seconds,
        "arrays": sum(len(block.rows) for block in found.blocks),
    }
    low, high = row["quartiles"]
    print(
        f"{name:55} {row['step_ms']:7.1f} ms, traced {row['time']:.2f} ({low:.2f} to {high:.2f}); "
        f"temp {memory[0]:.0f} MB, {memory[1]:.0f} MB; trace and compile {seconds[0]:.1f} s, {seconds[1]:.1f} s; "
        f"{row['arrays']} arrays",
        flush=True,
    )
    return row


EVERY = 100  # steps between two looks of a run that is watched


def measure_watch(rounds):
    """Of a GPT of scanned layers: a look against the gradient, and a step of a watched run against one that is not."""
    loss, args = loops.gpt(6, 384, 256, 8)
    plain = measuring.compile_step(fb.value_and_grad, loss, args)
    look = jax.jit(lambda *args: fb.watch(loss, *args)).lower(*args).compile()
    times = measuring.in_turns((plain, look), args, rounds)
    ratio = float(sorted(times[:, 1] / times[:, 0])[rounds // 2])
    step = 1 + ratio / EVERY
    print(f"a look {ratio:.2f} of the gradient's step; every {EVERY} steps: {step:.3f} of a run that is not watched")
    return {"look": ratio, "every": EVERY, "step": step}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word in the workload's name")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    chosen = {name: make for name, make in WORKLOADS.items() if options.only.lower() in name.lower()}
    rows = [measure(name, *make(), options.rounds) for name, make in chosen.items()]
    watched = measure_watch(options.rounds) if options.only.lower() in "watch" else None
    print(f"saved to {measuring.save([], 'trace_cost', workloads=rows, watch=watched)}")


if __name__ == "__main__":
    main()
