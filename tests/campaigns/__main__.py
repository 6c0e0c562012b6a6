"""`python -m tests.campaigns NAME ...`: the long checks; without a name, what there is. Each has its own --help."""

import importlib
import sys
from collections.abc import Sequence

CAMPAIGNS = {  # name: (module, what it does)
    "fuzz": ("fuzz.command", "random programs: our gradients against JAX's in float64"),
    "mutants": ("mutants.command", "rules with one mistake in them: who catches it"),
    "false_alarms": ("false_alarms", "does `fb.compare` ever say FAIL of a right rule"),
    "soak": ("soak", "a training run, or a sweep, that is killed again and again, against one undisturbed"),
    "corruption": ("corruption", "checkpoints damaged at random: a run resumes rightly or says why not"),
    "tracing": ("tracing", "does `fb.trace` ever blame a healthy model, and does it find what is planted"),
    "accuracy": (
        "accuracy.command",
        "derivatives of every rule's gradient against differences; errors of pointwise rules in ulp",
    ),
    "balance": ("balance.command", "verdicts on learning rates against full runs, and the edge of stability"),
    "fusions": ("fusions", "attention and losses as families of models write them: fused, or why not"),
    "jaxprs": ("jaxprs.command", "compare the equations that fnbackprop emits with those of another revision"),
    "jax_suite": ("jax_suite.command", "run JAX's own tests with our vjp in the place of jax.vjp"),
    "library_suite": ("jax_suite.library", "run the tests of a library on JAX so"),
}


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] not in CAMPAIGNS:
        if argv and argv[0] not in ("-h", "--help"):
            print(f"there is no campaign {argv[0]!r}; the campaigns are:", file=sys.stderr)
        print(__doc__, *(f"    {name:<14}{what}" for name, (_, what) in CAMPAIGNS.items()), sep="\n")
        return 2 if argv else 0
    module = importlib.import_module(f"tests.campaigns.{CAMPAIGNS[argv[0]][0]}")
    return module.main(argv[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
