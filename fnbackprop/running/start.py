"""`fnbackprop run`: starts `main_module.py` as a program of its own, in the place of this one."""

import os
import subprocess
import sys
from collections.abc import Sequence

from . import main_module

HELP = "run a script unchanged, with hand-written gradients in the place of jax.grad"


def run_script(argv: Sequence[str]) -> int:
    """Run `SCRIPT ...` or `-m MODULE ...`, after options; returns the exit status, where this process is not replaced.

    A new interpreter, because importing this package has imported JAX, and a script may set what JAX reads then.
    """
    main_module.parse(argv)  # answers --help and mistakes, and exits
    command = [sys.executable, main_module.__file__, *argv]
    if os.name == "posix":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, command)
    return subprocess.call(command)
