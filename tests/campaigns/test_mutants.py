"""The mutation tool: what it proposes, that it leaves no trace, and that `fb.compare` catches a fixed sample."""

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.backprop import registry

from . import false_alarms
from .mutants import blocks, command, rules, trial
from .mutants.command import AGAIN, main, report, sample
from .mutants.equivalent import EQUIVALENT, names
from .mutants.programs import EXISTING, PROGRAMS, WITHOUT_PROGRAM
from .mutants.signatures import edits

PREFIX = '''
@vjp_rule("waves", "x, y -> z")
def waves_vjp(dz, x, y, z, *, axis, reverse):
    """dx = -dz·(y - 1)."""
    first = lax.neg(lax.mul(dz, lax.sub(y, scalar(1, y))))
    second = lax.select(lax.lt(x, y), lax.conj(z), lax.cumsum(x, axis=axis, reverse=reverse))
    if x.ndim == 2:
        raise ValueError("not 2")
    return first, second[1:]
'''
INFIX = """
@vjp_rule("waves", "x, y -> z")
def waves_vjp(dz, x, y, z, *, axis, reverse):
    first = -(dz * (y - 1))
    second = where(x < y, z.conj(), cumsum(x, axis=axis, reverse=reverse))
    if x.ndim == 2:
        raise ValueError("not 2")
    return first, second[1:]
"""
EXPECTED = [  # (mistake, before and after in prefix notation, before and after in infix notation)
    ("sign turned", "lax.neg(lax.mul(dz, lax.sub(y, scalar(1, y))))", "lax.mul(dz, lax.sub(y, scalar(1, y)))",
     "-(dz * (y - 1))", "dz * (y - 1)"),
    ("factor dropped", "lax.mul(dz, lax.sub(y, scalar(1, y)))", "dz", "dz * (y - 1)", "dz"),
    ("function confused", "lax.sub(y, scalar(1, y))", "lax.add(y, scalar(1, y))", "y - 1", "y + 1"),
    ("operands swapped", "lax.sub(y, scalar(1, y))", "lax.sub(scalar(1, y), y)", "y - 1", "1 - y"),
    ("term dropped #2", "lax.sub(y, scalar(1, y))", "-scalar(1, y)", "y - 1", "-1"),
    ("constant changed", "1", "2", "1", "2"),
    ("comparison turned", "lax.lt(x, y)", "lax.gt(x, y)", "x < y", "x > y"),
    ("comparison off by one", "lax.lt(x, y)", "lax.le(x, y)", "x < y", "x <= y"),
    ("conjugate forgotten", "lax.conj(z)", "z", "z.conj()", "z"),
    ("axis exchanged", "lax.cumsum(x, axis=axis, reverse=reverse)", "lax.cumsum(x, axis=axis ^ 1, reverse=reverse)",
     "cumsum(x, axis=axis, reverse=reverse)", "cumsum(x, axis=axis ^ 1, reverse=reverse)"),
    ("flag turned", "lax.cumsum(x, axis=axis, reverse=reverse)", "lax.cumsum(x, axis=axis, reverse=not reverse)",
     "cumsum(x, axis=axis, reverse=reverse)", "cumsum(x, axis=axis, reverse=not reverse)"),
    ("another operand", "y", "x", "y", "x"),
    ("cotangent left out", "first", "None", "first", "None"),
    ("1 % too large", "second[1:]", "1.01 * (second[1:])", "second[1:]", "1.01 * (second[1:])"),
    ("other part of a slice", "1:", ":1", "1:", ":1"),
]  # fmt: skip


def proposed(source):
    tree = ast.parse(source)
    return tree, edits(next(node for node in tree.body if isinstance(node, ast.FunctionDef)))


@pytest.mark.parametrize("notation", ["prefix", "infix"])
@pytest.mark.parametrize("expected", EXPECTED, ids=lambda e: e[0])
def test_an_operator_proposes_its_mistake(expected, notation):
    mistake, *texts = expected
    before, after = texts[:2] if notation == "prefix" else texts[2:]
    _, found = proposed(PREFIX if notation == "prefix" else INFIX)
    assert (mistake, before, after) in {(e.name.partition(" ")[2] if e.place[0] != "a" else "", e.before, e.after)
                                        for e in found}  # fmt: skip


def test_a_rule_has_the_same_mistakes_at_the_same_places_in_either_notation():
    prefix, infix = ({e.name for e in proposed(source)[1]} for source in (PREFIX, INFIX))
    assert prefix == infix and len(prefix) > 40


# A rule in infix notation with some other mistakes: each with what it becomes.
MATRICES = """
@derivative("turns", "a, b -> c", wrt="a")
def turns_vjp_a(a, b, c):
    u = a @ b.H + c.T**3
    return where((a >= 0) & ~(b == c), u / 2.5, abs(a)) | -b
"""


@pytest.mark.parametrize(
    "mistake, after",
    [
        ("operands swapped", "b.H @ a"),
        ("factor dropped", "b.H"),
        ("adjoint forgotten", "b"),
        ("function confused", "b.T"),
        ("transposition forgotten", "c"),
        ("power dropped", "c.T"),
        ("constant changed", "4"),
        ("term dropped", "c.T ** 3"),
        ("function confused", "a @ b.H - c.T ** 3"),
        ("operands swapped", "where((a >= 0) & ~(b == c), abs(a), u / 2.5)"),
        ("mask forgotten", "u / 2.5"),
        ("condition dropped", "a >= 0"),
        ("function confused", "(a >= 0) | ~(b == c)"),
        ("condition turned", "b == c"),
        ("comparison off by one", "b != c"),
        ("comparison off by one", "a > 0"),
        ("comparison turned", "a <= 0"),
        ("function confused", "u * 2.5"),
        ("factor dropped", "1 / 2.5"),
        ("constant changed", "5.0"),
        ("function forgotten", "a"),
        ("sign turned", "b"),
        ("1 % too large", "1.01 * (where((a >= 0) & ~(b == c), u / 2.5, abs(a)) | -b)"),
        ("another operand", "c"),
    ],
)
def test_infix_operators_propose_their_mistakes(mistake, after):
    assert (mistake, after) in {(edit.operator, edit.after) for edit in proposed(MATRICES)[1]}


@pytest.mark.parametrize("source", [PREFIX, INFIX, MATRICES], ids=["prefix", "infix", "matrices"])
def test_every_edit_is_a_program_changes_it_and_has_a_name_of_its_own(source):
    tree, found = proposed(source)
    trees = {ast.dump(edit.apply(tree)) for edit in found}
    assert len(trees) == len(found) == len({edit.name for edit in found}) and ast.dump(tree) not in trees
    for edit in found:
        compile(edit.apply(tree), "a mutant", "exec")


def test_a_name_is_of_the_place_and_not_of_the_text():
    """Another format, other local names, comments and a docstring leave it."""
    other = INFIX.replace("first", "dx").replace("second", "dy_late").replace("    dx =", "    # so\n\n    dx =")
    other = other.replace("(y - 1))", "(y -\n        1))")
    assert {e.name for e in proposed(INFIX)[1]} == {e.name for e in proposed(other)[1]}


def test_what_cannot_be_a_mistake_is_not_proposed():
    """The order of factors, texts, messages, shapes."""
    found = {(e.before, e.after) for e in proposed(PREFIX)[1]}
    assert ("lax.mul(dz, lax.sub(y, scalar(1, y)))", "lax.mul(lax.sub(y, scalar(1, y)), dz)") not in found
    assert not any("not 2" in before or "dx = " in before for before, _ in found)
    read = [e.place for e in proposed(PREFIX)[1] if e.operator == "another operand"]
    assert len(read) == 10  # two others for each y, x, y, z, x whose value is read; not for x.ndim
    assert not any(place.startswith("2.") for place in read)


def test_every_registered_primitive_has_a_program_or_a_reason():
    names = {name for names in rules.primitives().values() for name in names}
    assert names & EXISTING <= set(PROGRAMS) | set(WITHOUT_PROGRAM)
    assert not set(PROGRAMS) & set(WITHOUT_PROGRAM)


def test_a_mutant_is_installed_and_leaves_no_trace():
    mutant = mutant_of("tanh_vjp", "sign turned")
    modules, entries = dict(sys.modules), registry._entries
    rule, x = registry.lookup(jax.lax.tanh_p).rules[0], jnp.float32(0.5)
    y = float(jnp.tanh(x))
    with rules.installed(mutant):
        assert float(fb.grad(jnp.tanh)(x)) == pytest.approx(y * y - 1, rel=1e-6)
    assert float(fb.grad(jnp.tanh)(x)) == pytest.approx(1 - y * y, rel=1e-6)
    assert registry._entries is entries and registry.lookup(jax.lax.tanh_p).rules[0] is rule
    assert all(sys.modules[name] is modules[name] for name in modules)


def test_a_mutated_helper_reaches_the_rules_of_other_modules():
    """`matrices.lower` is called by the rule of cholesky, which stands elsewhere."""
    found = (m for m in rules.mutants({"cholesky"}) if (m.module, m.function) == ("linear_algebra.matrices", "lower"))
    mutant = next(m for m in found if m.edit.operator == "comparison turned")
    program = PROGRAMS["cholesky"][0]
    right = trial.fingerprint(program)
    with rules.installed(mutant):
        assert trial.fingerprint(program) != right
    assert trial.fingerprint(program) == right


def mutant_of(function, operator):
    """The first mutant of a rule by a kind of mistake, in whatever notation the rule is written."""
    return next(m for m in everything() if m.function == function and m.edit.operator == operator)


FIXED = [
    ("tanh_vjp", "operands swapped"),
    ("square_vjp", "factor dropped"),
    ("sub_vjp_y", "sign turned"),
    ("sin_vjp", "1 % too large"),
    ("conj_vjp", "conjugate forgotten"),
    ("Line.backward", "condition turned"),  # the direction of cumsum
    ("max_vjp_x", "operands swapped"),
    ("dynamic_update_slice_vjp_x", "cotangent left out"),
]


@pytest.mark.parametrize("function, operator", FIXED)
def test_compare_catches_a_mutant(function, operator):
    found = trial.run(mutant_of(function, operator), {"compare": trial.by_compare})
    assert found.outcome is trial.Outcome.CAUGHT and found.programs


OF_BLOCKS = [
    ("blocks.tiled_attention", "attention_backward", "term dropped"),
    ("blocks.tiled_logits", "logits_backward", "mask forgotten"),
    ("blocks.gru", "backward", "1 % too large"),
]


@pytest.mark.parametrize("module, function, operator", OF_BLOCKS)
def test_compare_catches_a_mutant_of_a_block(module, function, operator):
    found = ((m.module, m.function, m.edit.operator) == (module, function, operator) for m in blocks.mutants())
    mutant = next(itertools.compress(blocks.mutants(), found))
    right = sys.modules[f"fnbackprop.{module}"]
    found = trial.run(mutant, {"compare": trial.by_compare})
    assert found.outcome is trial.Outcome.CAUGHT and found.programs
    assert sys.modules[f"fnbackprop.{module}"] is right


def everything(cache=[]):  # noqa: B006 (kept from test to test)
    cache = cache or cache.extend(rules.mutants(set(PROGRAMS))) or cache
    return cache


def test_the_other_checkers_see_the_mutants_gradient():
    mutant = mutant_of("square_vjp", "factor dropped")
    program = PROGRAMS["square"][0]
    for checker in (trial.by_check_grads, trial.by_chex):
        assert checker(program, mutant)
    function, operands = trial.as_custom_vjp(program)
    assert jnp.allclose(jax.vjp(function, *operands)[1]([jnp.ones(5)])[0], 2 * operands[0], rtol=1e-6)


def test_the_table_of_equivalent_mutants_is_not_stale():
    mutants = [*everything(), *blocks.mutants()]
    for row in EQUIVALENT:
        assert any(names(row, m) for m in mutants), row
        assert len(row.reason) > 20


def test_the_command_reports_survivors_and_goes_on_where_it_stopped(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(trial.CHECKERS, "compare", lambda program, mutant: mutant.edit.operator != "sign turned")
    monkeypatch.setattr(trial, "keep_compiled", lambda directory: None)
    command = ["--worker", "--rules", "neg", "sub", "--per-function", "9", "--checkers", "compare", "--record"]
    record = tmp_path / "record.jsonl"
    assert main([*command, str(record), "--limit", "3"]) in (0, 1)
    first = record.read_text()
    assert main([*command, str(record)]) == 1
    assert record.read_text().startswith(first) and len(record.read_text().splitlines()) > len(first.splitlines()) == 3
    printed = capsys.readouterr().out
    assert "SURVIVED    pointwise.binary.sub_vjp_y 0.0 sign turned: " in printed
    assert "compare      catches" in printed


def test_an_endless_mutant_is_given_up(tmp_path):
    """In a process of its own, which ends with a status of its own and has left a row."""
    record = tmp_path / "record.jsonl"
    code = (
        "import time; from tests.campaigns.mutants import command, trial; command.PATIENCE = 0.2\n"
        "trial.run = lambda *_: time.sleep(60)\n"
        f"command.main(['--worker', '--rules', 'neg', '--record', {str(record)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=50)
    assert done.returncode == AGAIN and json.loads(record.read_text())["outcome"] == "endless"


def test_a_process_ends_after_some_mutants_and_the_next_goes_on(monkeypatch, tmp_path):
    """As it keeps every program that it compiled."""
    monkeypatch.setattr(command, "MOST", 2)
    monkeypatch.setattr(trial, "keep_compiled", lambda directory: None)
    monkeypatch.setattr(trial, "run", lambda mutant, checkers: trial.Trial(mutant, trial.Outcome.UNSEEN))
    record = tmp_path / "record.jsonl"
    arguments = ["--worker", "--rules", "neg", "--limit", "3", "--record", str(record)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == AGAIN and len(record.read_text().splitlines()) == 2
    main(arguments)
    assert len(record.read_text().splitlines()) == 3


def test_a_sample_depends_on_its_seed_and_has_every_kind_first():
    one, again, other = (sample(["div"], seed, 6) for seed in (0, 0, 1))
    assert list(map(str, one)) == list(map(str, again)) != list(map(str, other))
    assert all(len({m.edit.operator for m in one if m.function == name}) == 6 for name in ("div_vjp_x", "div_vjp_y"))


def test_shares_are_of_the_wrong_mutants_alone():
    rows = [
        {
            "mutant": str(i),
            "operator": "o",
            "outcome": outcome,
            "equivalent": why,
            "by": {"compare": ok},
            "programs": [],
        }
        for i, (outcome, why, ok) in enumerate(
            [("caught", "", True), ("survived", "", False), ("survived", "it is the same", False), ("stillborn", "", 0)]
        )
    ]
    printed = report(rows)
    assert (
        "2 change a gradient and are wrong; 1 are equivalent; 1 do not run; 0 do not end; 0 change no program"
        in printed
    )
    assert "compare      catches 1 of 2: 50.0 %" in printed and "EQUIVALENT  2: it is the same" in printed


# ---------------------------------------------------------------- false alarms


def test_cases_come_in_each_dtype_and_in_both_kinds():
    found = [case for case, _ in zip(false_alarms.cases(0), range(12), strict=False)]
    assert {case.dtype for case in found} == set(false_alarms.DTYPES)
    assert sum(case.name.startswith("fuzz") for case in found) == 2
    assert any(x.dtype == "bfloat16" for case in found for x in case.operands)


def test_programs_of_libraries_are_drawn_anew_in_each_round_and_by_name_again():
    from .library_programs import PROGRAMS

    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS)
    first = [case for case, _ in zip(false_alarms.library_cases(0), range(40), strict=False)]
    assert {case.dtype for case in first} == set(false_alarms.DTYPES)
    case = first[7]
    again = false_alarms.case_named(0, case.name)
    later = false_alarms.case_named(0, case.name.replace("round 0", "round 1"))
    pairs = zip(*(jax.tree.leaves(c.operands) for c in (case, again, later)), strict=True)
    assert all((x == y).all() and not (x == z).all() for x, y, z in pairs)
    assert false_alarms.verdict(false_alarms.case_named(0, "library 8 float32 round 0"))[0] == "PASS"


def test_a_false_alarm_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(false_alarms, "verdict", lambda case: ("FAIL" if "fuzz" in case.name else "PASS", "the text"))
    assert false_alarms.main(["--comparisons", "12"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FALSE ALARM  fuzz") == 2 and "12 comparisons, 2 false alarms" in printed


def test_what_jax_does_not_run_is_not_counted():
    case = false_alarms.Case("cholesky", "bfloat16", jnp.linalg.cholesky, (jnp.eye(2, dtype="bfloat16"),))
    assert false_alarms.verdict(case)[0] == "not run"
