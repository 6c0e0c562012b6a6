"""Each run has a folder of its own, and no two processes write in one."""

import json
import os
import threading

import pytest

from fnbackprop.experiment_commands import COMMANDS
from fnbackprop.training.claim import Claim
from fnbackprop.training.errors import CheckpointError
from fnbackprop.training.loop import train
from fnbackprop.training.run import Run
from fnbackprop.training.run_folder import RunFolder, numbered, read_metrics, runs_of
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
