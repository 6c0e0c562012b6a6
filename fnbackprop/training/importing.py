"""Libraries that a run needs later, imported by a thread while it compiles."""

import contextlib
import importlib
import threading

# In the order in which they are needed: the first checkpoint, the curves, the report.
LATER = ("orbax.checkpoint", "matplotlib.backends.backend_agg", "matplotlib.figure", "scipy.special")


def import_ahead() -> threading.Thread:
    """Import them in a thread, which is returned: together they take a second, and a compiler leaves Python alone."""

    def work() -> None:
        for module in LATER:
            with contextlib.suppress(Exception):  # it is told where it is needed
                importlib.import_module(module)

    thread = threading.Thread(target=work, name="import ahead", daemon=True)
    thread.start()
    return thread
