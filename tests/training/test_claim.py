"""Each run has a folder of its own, and no two processes write in one."""

import datetime
import errno
import json
import os
import subprocess
import sys
import threading
from unittest import mock

import pytest

from fnbackprop.experiment_commands import COMMANDS
from fnbackprop.training import claim as claiming
from fnbackprop.training.checkpoints.checkpoint import finished_checkpoints, last_good
from fnbackprop.training.claim import Claim
from fnbackprop.training.errors import CheckpointError
from fnbackprop.training.loop import train
from fnbackprop.training.run import Run
from fnbackprop.training.run_folder import RunFolder, numbered, read_metrics, runs_of
from tests.training.processes import ROOT, finish
from tests.training.survivor import Config, experiment

MADE = experiment(Config(steps=2))


def claim(directory, **options):
    return Claim(Run(MADE, directory=directory, **options))


def write(folder, **facts):
    folder.description.write_text(json.dumps({"name": "survivor", "status": "finished", **facts}))


def test_a_new_run_gets_the_next_number(tmp_path):
    for name in ("survivor", "survivor-2", "survivor-3"):
        with claim(tmp_path) as claimed:
            assert claimed.folder.path == tmp_path / name
            write(claimed.folder)
            held = json.loads(claimed.folder.lock.read_text())
            assert held["id"] == os.getpid()
        assert not claimed.folder.lock.exists()
    (tmp_path / "survivor-old").mkdir()
    (tmp_path / "survivor-7").mkdir()
    write(RunFolder(tmp_path / "survivor-7"), name="survivor-7")  # another experiment's
    assert list(runs_of(tmp_path, "survivor")) == [1, 2, 3] and list(runs_of(tmp_path, "survivor-7")) == [1]
    with claim(tmp_path) as claimed:
        assert claimed.folder == numbered(tmp_path, "survivor", 4)
    assert not claimed.folder.path.exists(), "nothing was written"


def test_many_at_once_get_one_each(tmp_path):
    claims: list[Claim] = []
    threads = [threading.Thread(target=lambda: claims.append(claim(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({claimed.folder.path for claimed in claims}) == 8
    for claimed in claims:
        claimed.__exit__()


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_to_go_on_is_to_go_on_in_the_newest_which_nobody_uses(tmp_path, how):
    with claim(tmp_path) as first:
        write(first.folder, status="stopped")
        with pytest.raises(CheckpointError, match=f"survivor is in use: process {os.getpid()} on .* trains there"):
            claim(tmp_path, **{how: True})
        with claim(tmp_path) as second:
            assert second.folder != first.folder
    with claim(tmp_path, **{how: True}) as again:
        assert again.folder == first.folder


@pytest.mark.parametrize("without", ["Windows", "a file system without locks"])
def test_without_locks_new_runs_are_kept_apart_and_to_go_on_warns(tmp_path, monkeypatch, recwarn, without):
    if without == "Windows":
        monkeypatch.setattr(claiming, "fcntl", None)
    else:
        monkeypatch.setattr(claiming.fcntl, "flock", mock.Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    for name in ("survivor", "survivor-2"):
        with claim(tmp_path) as claimed:
            write(claimed.folder)
        assert claimed.folder.path == tmp_path / name
    assert not recwarn.list
    with pytest.warns(UserWarning, match="survivor-2 cannot be locked here: nothing would keep a second process"):
        claim(tmp_path, overwrite=True)


def test_two_processes_started_at_once_do_not_touch_each_others_files(tmp_path):
    """Both end well; each has a folder, with what it would have written alone."""
    command = [sys.executable, "-m", "tests.training.survivor", "train", "--checkpoint-every", "10", "--steps", "30"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PAUSE": "0.05", "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, "env": environment}
    processes = [subprocess.Popen([*command, "--seed", seed], **pipes) for seed in "01"]
    found = finish(processes, timeout=120)
    assert [status for status, _, _ in found] == [0, 0], found
    runs = runs_of(tmp_path / "runs", "survivor")
    assert list(runs) == [1, 2]
    facts = {(facts := folder.read_description())["seed"]: (folder, facts) for folder in runs.values()}
    begins = [datetime.datetime.fromisoformat(facts[seed][1]["began"]).timestamp() for seed in (0, 1)]
    assert abs(begins[0] - begins[1]) < min(facts[seed][1]["seconds"] for seed in (0, 1)), "they ran at once"
    for seed, (_, out, _) in enumerate(found):
        folder = facts[seed][0]
        assert f"in runs/{folder.path.name}" in out and not folder.lock.exists()
        assert [checkpoint.step for checkpoint in finished_checkpoints(folder)] == [10, 20, 30]
        assert last_good(finished_checkpoints(folder))[1] == {}
        train(experiment(Config(steps=30, seed=seed)), directory=tmp_path / "alone", progress=False, overwrite=True)
        assert read_metrics(folder.path) == read_metrics(tmp_path / "alone" / "survivor")


def test_what_is_resumed_is_the_newest_with_a_checkpoint(tmp_path):
    train(MADE, directory=tmp_path, progress=False)
    train(MADE, directory=tmp_path, progress=False, checkpoint_every=0)
    records = [read_metrics(tmp_path / name) for name in ("survivor", "survivor-2")]
    assert records[0] == records[1] and len(records[0]) == 3
    state = train(
        experiment(Config(steps=2)), steps=3, directory=tmp_path, resume=True, new_config=True, progress=False
    )
    assert state.step == 3 and len(read_metrics(tmp_path / "survivor")) == 5
    assert read_metrics(tmp_path / "survivor-2") == records[1] and list(runs_of(tmp_path, "survivor")) == [1, 2]
    with claim(tmp_path / "elsewhere", resume=True) as claimed:
        assert claimed.folder.path == tmp_path / "elsewhere" / "survivor"
    assert COMMANDS["train"].options().resume is False


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "survivor").touch()
    with pytest.raises(CheckpointError, match="survivor cannot be made: there is a file"):
        claim(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be made: Not a directory"):
        claim(tmp_path / "survivor")
