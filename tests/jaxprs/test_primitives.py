"""The table of traits: of primitives that exist, and each trait held by one and read by the package."""

import pathlib
import re

import jax
import pytest
from jax.experimental import pallas, sparse  # noqa: F401  (they define primitives)
from jax.extend.core import Primitive, primitives

import fnbackprop as fb
from fnbackprop.backprop import discharge
from fnbackprop.backprop.memory import time_sums
from fnbackprop.jaxprs.primitives import TRAITS, Trait, all_primitives, having
from fnbackprop.tracing.observing_engine import observe_p

# Primitives of one of the two supported JAX versions alone.
ONE_VERSION = {"call", "closed_call", "eval_jaxpr", "pbroadcast", "log2", "one_minus_square", "polynomial"}


def test_every_name_is_a_primitive():
    known = {p.name for p in vars(primitives).values() if isinstance(p, Primitive)} | {p.name for p in all_primitives()}
    assert set(TRAITS) - known - ONE_VERSION - {observe_p.name} == set()


@pytest.mark.parametrize("trait", Trait)
def test_every_trait_is_held_and_read(trait):
    assert having(trait)
    files = pathlib.Path(fb.__file__).parent.rglob("*.py")
    assert any(re.search(rf"Trait\.{trait.name}\b", path.read_text()) for path in files if path.name != "primitives.py")


def test_what_sums_over_time_can_be_summed():
    assert having(Trait.SUMMED_OVER_TIME) == set(time_sums._SUMS)


def test_what_makes_a_reference_is_rewritten():
    assert having(Trait.MAKES_REFERENCE) <= set(discharge._REWRITTEN)


def test_the_call_of_the_installed_jax_is_a_call():
    """JAX 0.10.2 names the primitive "call", which was once listed as "core_call"."""
    names = {p.name for p in all_primitives() if p.name in ("call", "core_call", "closed_call")}
    assert "core_call" not in names and names <= having(Trait.CALL)
    (equation,) = jax.make_jaxpr(jax.jit(lambda x: x + 1))(1.0).jaxpr.eqns
    assert equation.primitive.name in having(Trait.CALL)


def test_other_objects_are_not_asked_for_their_class():
    class Deprecated:
        @property
        def __class__(self):
            raise AssertionError("asked")

    kept = Deprecated()
    assert len(all_primitives()) > 100
    del kept
