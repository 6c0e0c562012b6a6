"""In a notebook, one output is drawn again while the run goes on; elsewhere IPython is not asked for."""

import sys
import types

import pytest

from fnbackprop.training.record.notebook_progress import NotebookProgress, in_notebook


def rows(*steps):
    return [{"step": step, "loss": 2.0 - 0.1 * step, "gradient_norm": 1.0} for step in steps]


def test_the_curve_is_drawn_again_now_and_then_and_at_the_end(capsys):
    display = pytest.importorskip("IPython.display", reason="IPython is not installed")
    now, drawn = [0.0], []
    output = types.SimpleNamespace(update=lambda page: drawn.append(page.data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "display", lambda page, display_id: output)
        progress = NotebookProgress("waves", 0, 9, "nowhere", clock=lambda: now[0])
    progress.show(rows(0))
    now[0] = 2.5
    progress.show(rows(1, 2))
    progress.show(rows(3))
    progress.show(rows(*range(4, 9)))
    assert len(drawn) == 2 and all("<svg" in page for page in drawn)
    assert "step 3/9  loss 1.8" in drawn[0] and "step 9/9  loss 1.2" in drawn[1]
    assert capsys.readouterr().out.startswith("waves: 9 steps, nowhere")


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "ipykernel", types.SimpleNamespace())
    assert in_notebook()
