"""The mutation tool: what it proposes, that it leaves no trace, and that `fb.compare` catches a fixed sample."""

import ast
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
from .mutants import operators, rules, trial
from .mutants.__main__ import GAVE_UP, main, report, sample
from .mutants.equivalent import EQUIVALENT, reason
from .mutants.programs import EXISTING, PROGRAMS, WITHOUT_PROGRAM

SOURCE = '''
@vjp_rule("waves", "x, y -> z")
def waves_vjp(dz, x, y, z, *, axis, reverse):
    """dx = -dz·(y - 1)."""
    first = lax.neg(lax.mul(dz, lax.sub(y, scalar(1, y))))
    second = lax.select(lax.lt(x, y), lax.conj(z), lax.cumsum(x, axis=axis, reverse=reverse))
    if x.ndim == 2:
        raise ValueError("not 2")
    return first, second[1:]
'''
SUM = "lax.cumsum(x, axis=axis, reverse=reverse)"
EXPECTED = [
    ("sign turned", "lax.neg(lax.mul(dz, lax.sub(y, scalar(1, y))))", "lax.mul(dz, lax.sub(y, scalar(1, y)))"),
    ("factor dropped", "lax.mul(dz, lax.sub(y, scalar(1, y)))", "dz"),
    ("function confused", "lax.sub(y, scalar(1, y))", "lax.add(y, scalar(1, y))"),
    ("operands swapped", "lax.sub(y, scalar(1, y))", "lax.sub(scalar(1, y), y)"),
    ("term dropped", "lax.sub(y, scalar(1, y))", "-(scalar(1, y))"),
    ("constant changed", "1", "2"),
    (
        "mask forgotten",
        "lax.select(lax.lt(x, y), lax.conj(z), lax.cumsum(x, axis=axis, reverse=reverse))",
        "lax.conj(z)",
    ),
    ("conjugate forgotten", "lax.conj(z)", "z"),
    ("axis exchanged", SUM, "lax.cumsum(x, axis=(axis) ^ 1, reverse=reverse)"),
    ("flag turned", SUM, "lax.cumsum(x, axis=axis, reverse=not (reverse))"),
    ("another operand", "y", "x"),
    ("cotangent left out", "first", "None"),
    ("1 % too large", "second[1:]", "1.01 * (second[1:])"),
    ("other part of a slice", "1:", ":1"),
]


@pytest.fixture(scope="module")
def proposed():
    source = operators.Source(SOURCE)
    return source, operators.edits(source, source.tree.body[0], is_rule=True)


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda e: e[0])
def test_an_operator_proposes_its_mistake(proposed, expected):
    assert expected in {(e.operator, e.before, e.after) for e in proposed[1]}


def test_every_edit_is_a_program_and_changes_it(proposed):
    source, edits = proposed
    trees = {ast.dump(ast.parse(edit.apply(source))) for edit in edits}
    assert len(trees) == len(edits) and ast.dump(source.tree) not in trees


def test_what_cannot_be_a_mistake_is_not_proposed(proposed):
    """The order of factors, texts, messages, shapes."""
    found = {(e.before, e.after) for e in proposed[1]}
    assert ("lax.mul(dz, lax.sub(y, scalar(1, y)))", "lax.mul(lax.sub(y, scalar(1, y)), dz)") not in found
    assert not any("not 2" in before or "dx = " in before for before, _ in found)
    read = [e.line for e in proposed[1] if e.operator == "another operand"]
    assert len(read) == 10 and 7 not in read  # two others for each y, x, y, z, x whose value is read; not for x.ndim


def test_every_registered_primitive_has_a_program_or_a_reason():
    names = {name for names in rules.primitives().values() for name in names}
    assert names & EXISTING <= set(PROGRAMS) | set(WITHOUT_PROGRAM)
    assert not set(PROGRAMS) & set(WITHOUT_PROGRAM)


def test_a_mutant_is_installed_and_leaves_no_trace():
    (mutant,) = (m for m in rules.mutants({"tanh"}) if m.key == "tanh_vjp: lax.square(y) -> y")
    modules, entries = dict(sys.modules), registry._entries
    rule, x = registry.lookup(jax.lax.tanh_p).rules[0], jnp.float32(0.5)
    y = float(jnp.tanh(x))
    with rules.installed(mutant):
        assert float(fb.grad(jnp.tanh)(x)) == pytest.approx(1 - y, rel=1e-6)
    assert float(fb.grad(jnp.tanh)(x)) == pytest.approx(1 - y * y, rel=1e-6)
    assert registry._entries is entries and registry.lookup(jax.lax.tanh_p).rules[0] is rule
    assert all(sys.modules[name] is modules[name] for name in modules)


def test_a_mutated_helper_reaches_the_rules_of_other_modules():
    """`matrices.transpose` is called by the rule of cholesky, which stands elsewhere."""
    (mutant,) = (m for m in rules.mutants({"cholesky"}) if m.key == "adjoint: transpose(conj(a)) -> conj(a)")
    assert mutant.module == "matrices"
    program = PROGRAMS["cholesky"][0]
    right = trial.fingerprint(program)
    with rules.installed(mutant):
        assert trial.fingerprint(program) != right
    assert trial.fingerprint(program) == right


# One mutant of each kind of mistake; the expected fate of each under `fb.compare`.
FIXED = [
    "tanh_vjp: lax.sub(scalar(1, y), lax.square(y)) -> lax.sub(lax.square(y), scalar(1, y))",
    "square_vjp: lax.mul(scalar(2, x), x) -> x",
    "sub_vjp_y: lax.neg(dz) -> dz",
    "sin_vjp: lax.mul(dy, lax.cos(x)) -> 1.01 * (lax.mul(dy, lax.cos(x)))",
    "conj_vjp: lax.conj(dy) -> dy",
    "cumsum_vjp: lax.cumsum(wide(dy), axis=axis, reverse=not reverse) -> "
    "lax.cumsum(wide(dy), axis=axis, reverse=not (not reverse))",
    "max_vjp_x: _share(x, y) -> _share(y, x)",
    "dynamic_update_slice_vjp_x: _update(dy, zeros_of(u_aval, dy.dtype), starts) -> "
    "0 * (_update(dy, zeros_of(u_aval, dy.dtype), starts))",
]


@pytest.mark.parametrize("key", FIXED, ids=lambda key: key.split(":")[0])
def test_compare_catches_a_mutant(key):
    (mutant,) = (m for m in everything() if m.key == key)
    found = trial.run(mutant, {"compare": trial.by_compare})
    assert found.outcome is trial.Outcome.CAUGHT and found.programs


def everything(cache=[]):  # noqa: B006 (kept from test to test)
    cache = cache or cache.extend(rules.mutants(set(PROGRAMS))) or cache
    return cache


def test_the_other_checkers_see_the_mutants_gradient():
    (mutant,) = (m for m in everything() if m.key == FIXED[1])
    program = PROGRAMS["square"][0]
    for checker in (trial.by_check_grads, trial.by_chex):
        assert checker(program, mutant)
    function, operands = trial.as_custom_vjp(program)
    assert jnp.allclose(jax.vjp(function, *operands)[1]([jnp.ones(5)])[0], 2 * operands[0], rtol=1e-6)


def test_the_table_of_equivalent_mutants_is_not_stale():
    for row in EQUIVALENT:
        assert any(reason(m) == row.reason for m in everything() if m.function == row.function), row
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
    assert "SURVIVED    arithmetic.py" in printed and "sub_vjp_y: lax.neg(dz) -> dz  [sign turned]" in printed
    assert "compare      catches" in printed


def test_an_endless_mutant_is_given_up(tmp_path):
    """In a process of its own, which ends with a status of its own and has left a row."""
    record = tmp_path / "record.jsonl"
    code = (
        "import time; from tests.mutants import __main__ as command, trial; command.PATIENCE = 0.2\n"
        "trial.run = lambda *_: time.sleep(60)\n"
        f"command.main(['--worker', '--rules', 'neg', '--record', {str(record)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, timeout=50)
    assert done.returncode == GAVE_UP and json.loads(record.read_text())["outcome"] == "endless"


def test_a_sample_depends_on_its_seed_and_has_every_kind_first():
    one, again, other = (sample(["atan2"], seed, 6) for seed in (0, 0, 1))
    assert list(map(str, one)) == list(map(str, again)) != list(map(str, other))
    assert all(
        len({m.edit.operator for m in one if m.function == name}) == 6 for name in ("atan2_vjp_x", "atan2_vjp_y")
    )


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


def test_a_false_alarm_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(false_alarms, "verdict", lambda case: ("FAIL" if "fuzz" in case.name else "PASS", "the text"))
    assert false_alarms.main(["--comparisons", "12"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FALSE ALARM  fuzz") == 2 and "12 comparisons, 2 false alarms" in printed


def test_what_jax_does_not_run_is_not_counted():
    case = false_alarms.Case("cholesky", "bfloat16", jnp.linalg.cholesky, (jnp.eye(2, dtype="bfloat16"),))
    assert false_alarms.verdict(case)[0] == "not run"
