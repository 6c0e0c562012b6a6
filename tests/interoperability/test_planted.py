"""`fb.compare` names the wrong derivative rule in other libraries' programs, at its line; and accuses no right one."""

import inspect

import jax
import pytest

import fnbackprop as fb

from . import planted_models, planted_solvers  # noqa: F401  (they register their programs)
from .planted import PROGRAMS

pytestmark = pytest.mark.filterwarnings("ignore:.*no hand-written rule")


@pytest.fixture(autouse=True)
def float32():
    with jax.enable_x64(False):
        yield


def line_of(function):
    return f"{inspect.getsourcefile(function)}:{function.__code__.co_firstlineno}"


def marked_line(build):
    """The line of the program that calls the function with the rule."""
    lines, first = inspect.getsourcelines(build)
    (at,) = [i for i, line in enumerate(lines) if "# HERE" in line]
    return f"{inspect.getsourcefile(build)}:{first + at}:"


def built(library, right):
    pytest.importorskip(library)
    return PROGRAMS[library].build(right)


@pytest.mark.parametrize("library", PROGRAMS)
def test_a_wrong_rule_is_named_at_its_line(library):
    loss, args, rule = built(library, right=False)
    result = fb.compare(loss, *args, directions=1, leaf_directions=False, progress=False)
    assert result.verdict is fb.Verdict.FAIL
    assert result.equations and {found.rule_at for found in result.equations} == {line_of(rule)}
    assert all(found.where.startswith(marked_line(PROGRAMS[library].build)) for found in result.equations)
    assert line_of(rule) in str(result).replace("\n", "")


@pytest.mark.parametrize("library", PROGRAMS)
def test_the_right_rule_passes(library):
    loss, args, _ = built(library, right=True)
    result = fb.compare(loss, *args, directions=1, leaf_directions=False, progress=False)
    assert result.equations == () and result.audited
    result.require()


def test_every_mistake_is_of_another_kind():
    assert len({planted.mistake for planted in PROGRAMS.values()}) == len(PROGRAMS) >= 10
