"""The commands' own logic: outcomes from pytest's report, and what they make of two. No test of JAX's is run."""

import pytest

from .jax_suite import command, exceptions, library, running

REPORT = """<testsuites><testsuite>
<testcase classname="a.T" name="right"/>
<testcase classname="a.T" name="wrong"><failure message="AssertionError: 1 != 2&#10;more">trace</failure></testcase>
<testcase classname="a.T" name="broken"><error message=""/></testcase>
<testcase classname="a.T" name="left"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>"""


def test_outcomes_of_a_report(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    outcomes = {case.get("name"): running._outcome(case) for case in running._cases(report)}
    assert outcomes == {"right": "passed", "wrong": "AssertionError: 1 != 2", "broken": "failed", "left": "skipped"}


def test_a_reason_excuses_a_failure_and_is_stale_where_the_test_passes(monkeypatch):
    reasons = (exceptions.Exempt("api", "T::demands*", "wants a refusal"), exceptions.Exempt("api", "T::fine", "old"))
    monkeypatch.setattr(exceptions, "EXEMPT", reasons)
    reference = {"T::a": "passed", "T::b": "passed", "T::fine": "passed", "T::demands1": "passed", "T::c": "failed"}
    ours = {"T::a": "passed", "T::b": "ValueError", "T::fine": "passed", "T::demands1": "TypeError", "T::c": "failed"}
    found = running.compare_outcomes("api", reference, ours)
    assert found.wrong == {"T::b": "ValueError"}
    assert found.excused == {"T::demands1": "wants a refusal"}
    assert found.stale == ["T::fine"]
    assert "T::c" not in found.counted
    assert running.compare_outcomes("nn", reference, {}).wrong == dict.fromkeys(found.counted, "not run")


def test_the_reference_runs_what_fails_with_ours(tmp_path, monkeypatch):
    runs = []

    def run(suite, path, ours, only=None):
        runs.append(only)
        return {"nn_test.T::b": "passed"}

    monkeypatch.setattr(running, "run", run)
    ours = {"nn_test.T::a": "passed", "nn_test.T::b": "ValueError", "nn_test.T::c": "skipped"}
    suite = running.Suite(tmp_path, (), 1.0)
    reference = running.run_reference(suite, "nn_test.py", ours)
    assert runs == [["nn_test.T::b"]]
    assert reference == {**ours, "nn_test.T::b": "passed"}
    assert running.run_reference(suite, "nn_test.py", {"nn_test.T::a": "passed"}) == {"nn_test.T::a": "passed"}
    assert len(runs) == 1


def test_a_file_that_does_not_end_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(running, "run", lambda *args, **options: {running.WHOLE_FILE: "not done in 1 s"})
    (tmp_path / "lax_autodiff_test.py").write_text("")
    assert command.main(["--tests", str(tmp_path), "nn"]) == 1
    assert "not done in 1 s" in capsys.readouterr().out


def test_a_test_of_a_report_is_found_again():
    assert running._address("nn_test.py", "nn_test.NNTest::testRelu[3]") == "nn_test.py::NNTest::testRelu[3]"
    assert running._address("tests/test_a.py", "tests.test_a::test_root[3]") == "tests/test_a.py::test_root[3]"
    assert running._address("tests/test_a.py", "::tests.test_a") == "tests/test_a.py"


LIBRARY = """
import jax, pytest
from beside import three

def test_right():
    assert jax.grad(lambda x: three * x)(1.0) == 3

class TestGradients:
    def test_of_a_refusal(self):
        with pytest.raises(ValueError):
            jax.grad(lambda x: jax.lax.while_loop(lambda y: y < 9.0, lambda y: y * x, x))(2.0)

def test_wrong_in_any_case():
    assert jax.grad(lambda x: three * x)(1.0) == 4
"""


def test_the_tests_of_a_library(tmp_path, capsys):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").write_text("")  # in the place of ours
    (tmp_path / "tests" / "test_gradients.py").write_text(LIBRARY)
    (tmp_path / "tests" / "test_values.py").write_text("def test_nothing():\n    assert False\n")
    (tmp_path / "beside.py").write_text("three = 3.0\n")
    assert library.main(["--tests", str(tmp_path), "--importable", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "1 of     2,   0 with a reason,   1 wrong" in printed
    assert "TestGradients::test_of_a_refusal" in printed
    assert "test_values" not in printed
    assert "2 tests pass by jax.grad; by ours 1 of them are wrong" in printed


def test_a_file_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit):
        library.main(["--tests", str(tmp_path), "test_a.py"])
    assert "there is no test_a.py" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        library.main(["--tests", str(tmp_path)])
    assert "takes a gradient" in capsys.readouterr().err
