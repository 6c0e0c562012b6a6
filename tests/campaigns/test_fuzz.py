"""The fuzzer finds nothing in a short run, finds and shrinks a planted wrong rule, and prints what runs."""

import json
from collections import Counter

import jax
import numpy as np
import pytest
from jax import lax

from fnbackprop.backprop import registry

from . import __main__ as campaigns
from .fuzz import check, generate, programs, wrappers
from .fuzz.command import fuzz, main, run_one, settings, summary
from .fuzz.tiers import COMPILED, IN_NUMPY


@pytest.fixture
def wrong_mul(plant):
    """A rule of `mul` that is off by a millionth in one operand."""
    plant("mul", registry.lookup(lax.mul_p))

    @registry.vjp_rule("mul", "x, y -> z", wrt="x")
    def mul_vjp_x(dz, y):
        return lax.mul(dz, lax.mul(y, np.asarray(1 + 1e-6, y.dtype)))


@pytest.fixture
def permissive():
    """The promotion that programs are written for, in 64-bit mode."""
    with settings():
        yield


def test_short_run_finds_nothing(permissive, capsys):
    counts = fuzz(seed=1, programs=10, length=4)  # short ones: the time goes into compilation
    assert counts["programs"] == 10
    assert not counts["mismatches"], capsys.readouterr().out
    assert summary(counts).startswith("10 programs, 0 mismatches, ")


def test_short_run_in_numpy(permissive, capsys):
    counts = fuzz(seed=1, start=1, programs=15, length=5, tier=IN_NUMPY)  # none of them is compiled too
    assert (counts["programs"], counts["mismatches"]) == (15, 0), capsys.readouterr().out
    fuzz(seed=1, programs=1, length=2, tier=IN_NUMPY)  # this one is


@pytest.mark.parametrize("tier", [COMPILED, IN_NUMPY], ids=lambda tier: tier.name)
def test_short_run_on_an_explicit_mesh(tier, capsys):
    """Cotangents are laid out as their inputs; a case is printed with its mesh."""
    with settings(explicit=True):
        counts = fuzz(seed=1, start=1, programs=4, length=3, tier=tier)
        assert (counts["programs"], counts["mismatches"]) == (4, 0), capsys.readouterr().out
        case = generate.generate(1, 0, 3, tier)
        assert {"e"} < {axis for x in case.inputs for axis in programs.partitions(x)}
        text = programs.script(case, ())
    assert "jax.set_mesh(EXPLICIT)" in text and "P('e'" in text


def test_the_next_run_goes_on_after_the_results(tmp_path, capsys):
    file = tmp_path / "results" / "fuzz.jsonl"
    options = ["--numpy", "--start", "1", "--seeds", "2", "--results", str(file)]
    assert main([*options, "--programs", "1"]) == 0
    assert main([*options, "--programs", "2"]) == 0
    rows = list(map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    assert [(row["settings"]["seed"], row["start"]) for row in rows] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert main([*options, "--programs", "2"]) == 0  # nothing is left
    assert len(file.read_text(encoding="utf-8").splitlines()) == 4
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 programs, 0 mismatches, ")


def test_the_messages_of_time_and_of_a_wrong_name(capsys):
    """A run that its time ends says how far it came; a campaign that there is not, which there are."""
    fuzz(seed=1, programs=5, seconds=-1.0)
    assert "0 of 5 programs; --start 0 goes on from here" in capsys.readouterr().out
    assert campaigns.main(["fuzzy"]) == 2
    printed = capsys.readouterr()
    assert "there is no campaign 'fuzzy'" in printed.err and "random programs" in printed.out


def test_a_program_depends_on_seed_and_number_alone():
    with settings():
        first = [programs.source(generate.generate(3, n).program) for n in (5, 4)]
        again = [programs.source(generate.generate(3, n).program) for n in (4, 5)]
    assert first == again[::-1]
    assert first[0] != first[1]


@pytest.mark.parametrize("tier", [COMPILED, IN_NUMPY], ids=lambda tier: tier.name)
def test_planted_error_is_found_and_shrunk(tier, wrong_mul, permissive, capsys):
    found = next(filter(None, (run_one(1, n, Counter(), tier=tier) for n in range(1, 30))))
    assert found.program.size <= 5
    assert check.check(found).kind == "mismatch"
    printed = capsys.readouterr().out
    assert "# MISMATCH: seed 1, program" in printed
    exec(printed.replace('jax.config.update("jax_enable_x64", True)', ""), {})
    manual, automatic = capsys.readouterr().out.strip().split("\n(")[:2]
    assert manual.lstrip("(") != automatic


@pytest.mark.parametrize("wrapper", wrappers.WRAPPERS, ids=lambda w: (w.definition or w.template).split("\n")[-1])
def test_each_wrapper_runs(wrapper, permissive):
    """On a body of two instructions; its value has a shape that programs use, so it is drawn."""
    body = programs.Program(
        (programs.Type("float64", (4,)), programs.Type("float64", (4,))),
        (programs.Instruction("jnp.sin({0})", (0,)), programs.Instruction("{0} * {1}", (2, 1))),
        (3,),
    )
    a, b = (np.linspace(0.3, 1.2, 12).reshape(3, 4) if on else np.linspace(0.5, 1.1, 4) for on in wrapper.stacked)
    bodies = (body, body)[: 2 if "{G}" in wrapper.template else 1]
    step = programs.Instruction(wrapper.template, (0, 1), bodies, wrapper.definition)
    types = tuple(programs.Type("float64", x.shape) for x in (a, b))
    case = programs.Case(programs.Program(types, (step,), (2,)), (jax.numpy.asarray(a), jax.numpy.asarray(b)))
    assert check.check(case) == check.Verdict("same")


LOOP = """def {N}(a, b):
    n = jnp.arange(3) % 3
    step = lambda n: lambda s: (s[0] + 1, {F}(s[1], b))
    return jax.vmap(lambda n, a: lax.while_loop(lambda s: s[0] < n, step(n), (0, a))[1])(n, a)"""


@pytest.mark.parametrize(
    ("before", "x", "verdict"),
    [
        ("{0} * 0.5", [0.5, 0.0, 0.3], "same"),  # a finished example is at 1, where its body has no slope
        ("lax.rsqrt({0} + 1.0)", [-1.0, 0.4, 0.3], "skipped"),  # of 0, by the example that takes no step
    ],
)
@pytest.mark.parametrize("tier", [COMPILED, IN_NUMPY], ids=lambda tier: tier.name)
def test_while_loops_alone_are_differentiated_forwards(before, x, verdict, tier, permissive):
    """Around them, JAX's reverse mode multiplies zero by infinity, as ours does; within them, neither."""
    scalar, vector = (programs.Type("float64", shape) for shape in ((), (3,)))
    body = programs.Program((scalar, scalar), (programs.Instruction("jnp.sqrt(1.0 - {0}) * {1}", (0, 1)),), (2,))
    steps = (
        programs.Instruction(before, (0,)),
        programs.Instruction("{N}({0}, {1})", (3, 1), (body,), LOOP),
        programs.Instruction("jnp.where({0}, {1}, {2})", (2, 4, 0)),
    )
    program = programs.Program((vector, scalar, programs.Type("bool", (3,))), steps, (5,))
    inputs = (x, 1.0, [False, True, True])
    case = programs.Case(program, tuple(map(jax.numpy.asarray, inputs)))
    assert check.check(case, tier).kind == verdict
    assert verdict == "same" or check.check(case, tier).why == "JAX's gradient is not finite, ours likewise"


def test_cancellation_within_a_program_is_noise(permissive):
    """1 + tanh(-5) loses four digits, of which the last bits of -5 tell nothing."""
    step = programs.Instruction("1.0 + jnp.tanh({0})", (0,))
    case = programs.Case(programs.Program((programs.Type("float64", (3,)),), (step,), (1,)), (np.full(3, -9.0),))
    _, want = check.run_reference(IN_NUMPY.function(case), case, IN_NUMPY)
    near = [np.max(np.abs(other / want.leaves[0] - 1)) for (other,) in [check._gradient_nearby(case, want, 0)]]
    moved = np.max(np.abs(want.rounded(0)[1][0] / want.leaves[0] - 1))
    assert near[0] < 1e-13 and 1e-10 < moved < 1e-7
    assert np.array_equal(want.rounded(1)[1], want.rounded(1)[1])


def test_a_jump_that_roundoff_decides_is_not_judged(permissive):
    """The remainder of 2 x by x, which roundoff makes nearly 0 or nearly x."""
    x = np.linspace(0.1, 2.0, 50)
    steps = (programs.Instruction("2.0 * {0}", (0,)), programs.Instruction("lax.rem({0}, {1})", (1, 0)))
    case = programs.Case(programs.Program((programs.Type("float64", x.shape),), steps, (2,)), (x,))
    _, want = check.run_reference(IN_NUMPY.function(case), case, IN_NUMPY)
    wrong = want._replace(leaves=[leaf + 1.0 for leaf in want.leaves])
    assert check._compare(case, wrong, want, check.RELATIVE).why.startswith("the value jumps")
