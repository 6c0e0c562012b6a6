"""Axes of a mesh from text; there are 8 simulated devices."""

import jax
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.mesh import join_processes, make_mesh, parse_axes


@pytest.mark.parametrize(
    "text, shape",
    [
        ("data=4,model=2", {"data": 4, "model": 2}),
        ({"model": 2}, {"model": 2}),
        ("data=-1", {"data": 8}),
        (" model = 2, data=-1", {"model": 2, "data": 4}),
    ],
)
def test_make_mesh(text, shape):
    mesh = make_mesh(text)
    assert dict(mesh.shape) == shape and list(mesh.axis_names) == list(shape)
    assert list(mesh.devices.flat) == jax.devices()[: mesh.size]
    assert make_mesh(mesh) is mesh


@pytest.mark.parametrize(
    "text", ["", "data", "data=", "data=0", "data=-2", "4=data", "data=2,data=2", "data=-1,model=-1"]
)
def test_what_is_no_mesh(text):
    with pytest.raises(ExperimentError, match="a mesh is a list of axes and their sizes such as data=4,model=2"):
        parse_axes(text)


def test_more_devices_than_there_are():
    with pytest.raises(ExperimentError, match=r"mesh data=8,model=2 needs 16 devices, but there are 8 \(cpu\)"):
        make_mesh("data=8,model=2")
    with pytest.raises(ExperimentError, match="mesh data=3,model=-1: 8 devices cannot be shared evenly by 3"):
        make_mesh("data=3,model=-1")


def test_processes_that_cannot_be_found(monkeypatch):
    join_processes(wanted=False)
    assert jax.process_count() == 1
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ExperimentError, match="JAX_NUM_PROCESSES must be a number, not 'two'"):
        join_processes(wanted=False)
    monkeypatch.delenv("JAX_NUM_PROCESSES")
    with pytest.raises(ExperimentError, match="could not be joined: .*JAX_COORDINATOR_ADDRESS=host:port"):
        join_processes(wanted=True)
