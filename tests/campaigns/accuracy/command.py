"""`python -m tests.campaigns accuracy`: `jax.jvp` of every rule's gradient against differences of it, in float64."""

import argparse
from collections.abc import Sequence

import jax

from .forward import EXCEPTIONS, disagreement, programs

ALLOWED = 1e-6  # of differences with a step of 1e-5


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns accuracy", description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="PRIMITIVE", help="programs of these primitives alone")
    only = parser.parse_args(argv).only
    chosen = [program for program in programs() if not only or program.primitive in only]
    wrong = []
    with jax.enable_x64(True):
        for program in chosen:
            if str(program) in EXCEPTIONS:
                print(f"{program!s:<32} not compared: {EXCEPTIONS[str(program)]}")
                continue
            try:
                found = f"{(error := disagreement(program)):.1e}"
            except NotImplementedError as refusal:
                error, found = float("inf"), str(refusal).splitlines()[0]
            if not error <= ALLOWED:
                wrong.append(program)
            print(f"{program!s:<32} {found}{'' if error <= ALLOWED else '   WRONG'}", flush=True)
    print(f"{len(chosen)} programs, {len(wrong)} wrong")
    return bool(wrong)
