"""`fnbackprop doctor` shows what is here, and fails where the gradient is wrong."""

import jax
import pytest

from fnbackprop import doctor
from fnbackprop.cli import main
from fnbackprop.extras import EXTRAS


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, dy: (dy,))  # a factor 2 is missing


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = ["versions", "", "", "devices", "rules", "gradient", *(f"[{extra}]" for extra in EXTRAS)]
    assert [line[:14].strip() for line in lines] == subjects
    assert f"JAX {jax.__version__} (" in lines[1] and "NOT" not in lines[1]
    assert f"jaxlib {jax.lib.__version__}, numpy " in lines[2] and "optax " in lines[2]
    assert "PASS" in lines[5]


def test_a_wrong_gradient_and_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_loss", doubled)
    monkeypatch.setattr(doctor, "_arguments", lambda: (1.5,))
    monkeypatch.setattr(doctor, "is_tested", lambda version: False)
    monkeypatch.setitem(EXTRAS, "train", ("optax", "not_installed_anywhere"))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "this version was NOT" in shown and "FAIL" in shown and "first wrong equation" in shown
    assert "[train]       without not_installed_anywhere: pip install 'fnbackprop[train]'" in shown


def test_it_takes_no_arguments():
    with pytest.raises(SystemExit):
        main(["doctor", "train"])
