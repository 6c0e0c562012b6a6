"""Two and four processes of which one raises, hangs or is killed: all end soon, and say why."""

import json
import textwrap

import pytest

from fnbackprop.training import peers
from tests.training.processes import finish, start
from tests.training.test_processes import FILE

FAILURES = {
    "raises": ('raise ConnectionError("the data are gone")', "process 1 failed: ConnectionError: the data are gone"),
    "hangs": ("time.sleep(1000)", "process 1 has been waiting for batch(3) for "),
    "is killed": ("os.kill(os.getpid(), 9)", "process 1 is gone: it was killed"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_all_processes_end_if_one_does_not_go_on(tmp_path, how):
    statement, message = FAILURES[how]
    failing = f"""
        if step == 3 and jax.process_index() == 1:
            import os, time
            {statement}
        rng ="""
    (tmp_path / "regression.py").write_text(textwrap.dedent(FILE).replace("\n        rng =", failing))
    arguments = ["train", "regression.py", "--mesh", "data=2", "--batch-timeout", "3", "--checkpoint-every", "1"]
    processes = start(2, arguments, devices_each=1, folder=tmp_path)
    found = finish(processes, timeout=60)
    (status, out, errors), (other_status, _, other_errors) = found
    assert status != 0 and other_status != 0
    assert message in errors, errors
    if how == "raises":
        assert "ConnectionError: the data are gone" in other_errors


class Service:
    """The coordination service with what two processes have told it."""

    def __init__(self, **told):
        self.told = {f"/{process.strip('_')}": json.dumps(facts) for process, facts in told.items()}

    def key_value_set(self, key, value, allow_overwrite):
        self.told[key] = value

    def key_value_dir_get(self, prefix):
        return list(self.told.items())


def test_a_process_whose_collective_operation_breaks_tells_what_another_found(capsys, monkeypatch):
    monkeypatch.setattr(peers.atexit, "register", lambda action: None)  # it would end pytest
    one = peers.Peers(
        Service(_1={"ended": "", "found": "process 1 has been waiting for batch(3) for 4 s"}), patience=3.0
    )
    with pytest.raises(RuntimeError), one:
        raise RuntimeError("connection closed by peer")
    error, found = capsys.readouterr().err.splitlines()
    assert error.endswith("RuntimeError: connection closed by peer")
    assert "process 1 has been waiting for batch(3) for 4 s. The run goes on from its last checkpoint" in found
