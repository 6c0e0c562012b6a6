"""MLflow, in files: what was logged is read back by its own client."""

import sys

import pytest

from fnbackprop.extras import MissingExtra
from fnbackprop.training.loggers import MLflow
from tests.training.loggers.running import log_some, start


@pytest.mark.filterwarnings("ignore")  # of its client
def test_in_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, folder = (tmp_path / "server").as_uri(), tmp_path / "run"
    folder.mkdir()
    log_some(MLflow(uri=uri), start(folder))
    log_some(MLflow(uri=uri), start(folder, step=2))  # it goes on in the same run
    client = mlflow.MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("waves").experiment_id])
    assert run.info.run_name == "waves-2" and run.info.status == "FINISHED"
    assert run.data.params == {"width": "8", "optimizer.name": "lion"}
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2, 2, 3, 4]
    assert run.data.metrics["evaluate/error"] == 0.25
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.html"]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fnbackprop\[mlflow\]'"):
        MLflow().start(start(tmp_path))
