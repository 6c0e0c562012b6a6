"""Libraries that a run needs later, imported by a thread meanwhile."""

import contextlib
import importlib
import threading
from collections.abc import Sequence

CHECKPOINT = ("orbax.checkpoint",)
REPORT = ("jinja2",)


def import_ahead(modules: Sequence[str]) -> threading.Thread:
    """Import them in a thread, which is returned."""

    def work() -> None:
        for module in modules:
            with contextlib.suppress(Exception):  # it is told where it is needed
                importlib.import_module(module)

    thread = threading.Thread(target=work, name="import ahead", daemon=True)
    thread.start()
    return thread
