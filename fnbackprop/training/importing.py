"""Libraries that a run needs later, imported by a thread while the main one waits for the compiler."""

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

CHECKPOINT = ("orbax.checkpoint",)
CURVES = ("matplotlib.backends.backend_agg", "matplotlib.figure", "scipy.special")  # and the report


def import_ahead(modules: Sequence[str]) -> threading.Thread:
    """Import them in a thread, which is returned."""

    def work() -> None:
        for module in modules:
            with contextlib.suppress(Exception):  # it is told where it is needed
                importlib.import_module(module)

    thread = threading.Thread(target=work, name="import ahead", daemon=True)
    thread.start()
    return thread


def once_traced(function: Callable[..., Any], then: Callable[[], Any]) -> Callable[..., Any]:
    """The function, which calls `then()` when it has been traced: before that, a thread would only slow Python down."""

    @functools.wraps(function)  # the program has its name
    def traced(*args: Any) -> Any:
        found = function(*args)
        then()
        return found

    return traced
