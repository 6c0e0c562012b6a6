"""The comparison of jaxprs: what its canonical text ignores, what it shows, and that a changed rule is detected."""

import shutil

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from .jaxprs.command import report
from .jaxprs.printing import canonical
from .jaxprs.programs import programs
from .jaxprs.revisions import PACKAGE, ROOT, Recording

X = jnp.arange(3.0)


def text(function, *operands):
    return canonical(jax.make_jaxpr(function)(*operands))


def test_names_and_lines_are_ignored():
    def first(x):
        double = jax.jit(lambda value: value * 2)
        return double(x) + 1

    @jax.jit
    def twice(y):
        return y * 2

    def second(z):
        return twice(z) + 1

    assert text(first, X) == text(second, X)


OTHERS = {
    "another primitive": lambda x: lax.cos(x) * X,
    "operands swapped": lambda x: X * lax.sin(x),
    "another constant": lambda x: lax.sin(x) * jnp.arange(1.0, 4.0),
    "another parameter": lambda x: lax.sin(x, accuracy=lax.AccuracyMode.HIGHEST) * X,
    "inside a loop": lambda x: lax.scan(lambda c, _: (c * 2, None), lax.sin(x) * X, length=2)[0],
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_difference_is_shown(other):
    assert text(lambda x: lax.sin(x) * X, X) != text(OTHERS[other], X)


def test_the_body_of_a_loop_is_compared():
    def loop(factor):
        return lambda x: lax.scan(lambda c, _: (c * factor, None), x, length=2)[0]

    assert text(loop(2), X) == text(loop(2), X) != text(loop(3), X)


def test_addresses_do_not_show():
    function = jax.custom_vjp(jnp.sin)
    function.defvjp(lambda x: (x, x), lambda x, dy: (dy,))
    shown = text(jax.jit(function), X)
    assert "0x" not in shown and "custom_vjp_call" in shown and __file__ not in shown


def test_every_program_has_a_name_of_its_own():
    names = [program.name for program in programs()]
    assert len(names) == len(set(names)) > 1500
    assert {name.partition("/")[0] for name in names} == {"loops", "steps", "tracing", "models", "rules"}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Make the recording of one rule's programs by a copy of the package, with a change of its text."""
    monkeypatch.setattr("tests.campaigns.jaxprs.revisions.CACHE", tmp_path / "cache")

    def make(name, old="", new=""):
        home = tmp_path / name
        shutil.copytree(ROOT / PACKAGE, home / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        file = home / PACKAGE / "rules" / "pointwise" / "unary.py"
        changed = file.read_text(encoding="utf-8").replace(old, new)
        assert not old or changed != file.read_text(encoding="utf-8")
        file.write_text(changed, encoding="utf-8")
        return Recording(home, "rules/cos#0*")

    return make


def test_a_changed_rule_is_detected_and_an_unchanged_one_is_equal(recorded, capsys):
    copies = (
        recorded("right"),
        recorded("commented", '"""dy/dx', '\n    """The slope dy/dx'),
        recorded("wrong", "-(dy * sin(x, accuracy=accuracy))", "dy * cosh(x)"),
    )
    right, commented, wrong = (copy.texts() for copy in copies)
    assert len(right) == 5 and "cos" in right["rules/cos#0: value_and_grad"]
    assert report(right, commented, [], 9) == 0
    assert "5 programs, 5 equal, 0 differ" in capsys.readouterr().out
    assert report(right, wrong, [], 9) == 1
    shown = capsys.readouterr().out
    assert "5 programs, 0 equal, 5 differ" in shown and "DIFFERS   rules/cos#0: vmap" in shown and "cosh" in shown
    assert report(right, wrong, [("rules/cos*", "wanted")], 9) == 0
    assert report(right, wrong, [("rules/cos*", "wanted"), ("rules/sin*", "not wanted")], 9) == 1
    assert "STALE     rules/sin*" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no program"):
        report({}, {}, [], 9)
