"""Record the jaxprs of all programs with the fnbackprop that Python's path holds: run by `revisions.py` as a process.

python -m tests.campaigns.jaxprs.record OUTPUT.json [PATTERN]
"""

import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import jax

from .printing import canonical
from .programs import Traced, programs


def main(output: str, pattern: str = "*") -> None:
    found = {program.name: text_of(program) for program in programs() if fnmatchcase(program.name, pattern)}
    Path(output).write_text(json.dumps(found), encoding="utf-8")


def text_of(program: Traced) -> str:
    """The canonical jaxpr of a program; where tracing it raises, the type of the error."""
    with jax.enable_x64(program.x64), jax.numpy_dtype_promotion("standard"):
        try:
            closed = jax.make_jaxpr(program.function)(*program.operands)
        except Exception as error:  # some dtypes are refused, by JAX or by a rule: then both revisions refuse
            return f"raises {type(error).__name__}"
    return canonical(closed)


if __name__ == "__main__":
    main(*sys.argv[1:])
