"""Libraries are imported in a thread, one that is missing too."""

import subprocess
import sys

from fnbackprop.training.importing import import_ahead


def test_they_are_imported_and_one_that_is_missing_does_no_harm(monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    import_ahead(("no_such_library", "wave")).join(30.0)
    assert "wave" in sys.modules


def test_what_few_runs_need_is_not_imported_with_the_loop():
    unwanted = [
        "scipy.special",
        "orbax.checkpoint",
        "matplotlib",
        "fnbackprop.comparing.pipeline",
        "fnbackprop.tracing",
    ]
    program = f"import sys, fnbackprop.training.loop; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
