"""How accurate the rules are: `forward` and `reverse`, the derivative of every rule's gradient by `jax.jvp` and by
`fb.vjp` against differences; `ulp`, the error of pointwise rules in units in the last place. All three by default."""

import argparse
import os
from collections.abc import Sequence

import jax

ALLOWED = 1e-6  # of differences with a step of 1e-5
ALLOWED32 = 1e-3  # of the second derivative in float32, relative to that in float64


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns accuracy", description=__doc__)
    parser.add_argument("which", nargs="?", choices=("forward", "reverse", "ulp"), help="one of them alone")
    parser.add_argument("--only", nargs="*", default=[], metavar="PRIMITIVE", help="of these primitives alone")
    options = parser.parse_args(argv)
    kinds = [options.which] if options.which else ["forward", "reverse", "ulp"]
    if kinds != ["ulp"]:  # programs of several devices; and much time goes into compiling
        os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    return max(_report(kind, options.only) for kind in kinds)


def _report(kind: str, only: Sequence[str]) -> bool:
    if kind == "ulp":
        from . import ulp

        return ulp.report(only)
    return _second_order(kind == "reverse", only)


def _second_order(reverse: bool, only: Sequence[str]) -> bool:
    from .second_order import EXCEPTIONS, REVERSE_EXCEPTIONS, disagreement, loss_of_precision, programs

    exceptions = REVERSE_EXCEPTIONS if reverse else EXCEPTIONS
    chosen = [program for program in programs() if not only or program.primitive in only]
    wrong = []
    with jax.enable_x64(True):
        for program in chosen:
            if str(program) in exceptions:
                print(f"{program!s:<32} not compared: {exceptions[str(program)]}")
                continue
            try:
                errors = [(disagreement(program, reverse), ALLOWED)]
                errors += [(loss_of_precision(program), ALLOWED32)] if reverse else []
                found, right = "  ".join(f"{e:.1e}" for e, _ in errors), all(e <= most for e, most in errors)
            except Exception as refusal:  # of any kind: the others are looked at all the same
                found, right = f"{type(refusal).__name__}: {str(refusal).splitlines()[0]}", False
            if not right:
                wrong.append(program)
            print(f"{program!s:<32} {found}{'' if right else '   WRONG'}", flush=True)
    print(f"{len(chosen)} programs, {len(wrong)} wrong")
    return bool(wrong)
