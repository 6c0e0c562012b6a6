"""The command's own logic: outcomes from pytest's report, and what it makes of two of them. No test of JAX's is run."""

from .jax_suite import command, exceptions

REPORT = """<testsuites><testsuite>
<testcase classname="a.T" name="right"/>
<testcase classname="a.T" name="wrong"><failure message="AssertionError: 1 != 2&#10;more">trace</failure></testcase>
<testcase classname="a.T" name="broken"><error message=""/></testcase>
<testcase classname="a.T" name="left"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>"""


def test_outcomes_of_a_report(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    outcomes = {case.get("name"): command._outcome(case) for case in command._cases(report)}
    assert outcomes == {"right": "passed", "wrong": "AssertionError: 1 != 2", "broken": "failed", "left": "skipped"}


def test_a_reason_excuses_a_failure_and_is_stale_where_the_test_passes(monkeypatch):
    reasons = (exceptions.Exempt("api", "T::demands*", "wants a refusal"), exceptions.Exempt("api", "T::fine", "old"))
    monkeypatch.setattr(exceptions, "EXEMPT", reasons)
    reference = {"T::a": "passed", "T::b": "passed", "T::fine": "passed", "T::demands1": "passed", "T::c": "failed"}
    ours = {"T::a": "passed", "T::b": "ValueError", "T::fine": "passed", "T::demands1": "TypeError", "T::c": "failed"}
    found = command.compare_outcomes("api", reference, ours)
    assert found.wrong == {"T::b": "ValueError"}
    assert found.excused == {"T::demands1": "wants a refusal"}
    assert found.stale == ["T::fine"]
    assert "T::c" not in found.counted
    assert command.compare_outcomes("nn", reference, {}).wrong == dict.fromkeys(found.counted, "not run")


def test_the_reference_runs_what_fails_with_ours(tmp_path, monkeypatch):
    runs = []

    def run(tests, file, ours, limit, select=None, only=None):
        runs.append(only)
        return {"nn_test.T::b": "passed"}

    monkeypatch.setattr(command, "run", run)
    ours = {"nn_test.T::a": "passed", "nn_test.T::b": "ValueError", "nn_test.T::c": "skipped"}
    reference = command.run_reference(tmp_path, "nn", 1.0, ours)
    assert runs == [["nn_test.T::b"]]
    assert reference == {**ours, "nn_test.T::b": "passed"}
    assert command.run_reference(tmp_path, "nn", 1.0, {"nn_test.T::a": "passed"}) == {"nn_test.T::a": "passed"}
    assert len(runs) == 1


def test_a_file_that_does_not_end_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "run", lambda *args, **options: {command.WHOLE_FILE: "not done in 1 s"})
    (tmp_path / "lax_autodiff_test.py").write_text("")
    assert command.main(["--tests", str(tmp_path), "nn"]) == 1
    assert "not done in 1 s" in capsys.readouterr().out


def test_a_test_of_a_report_is_found_again():
    assert command._address("nn", "nn_test.NNTest::testRelu[3]") == "nn_test.py::NNTest::testRelu[3]"
