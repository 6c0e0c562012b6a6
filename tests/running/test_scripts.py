"""Six scripts in the ways of their ecosystems, by `python` and by `fnbackprop run --compare`.

They print and end the same, and each place that takes a gradient passes.
"""

import pathlib

import pytest

from .running import check_equal, rows, start, start_ours

SCRIPTS = pathlib.Path(__file__).parent / "scripts"


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("nnx_classifier.py", (30,)),
        ("equinox_rnn.py", (48,)),
        ("optax_checkpoint.py", (54, 68)),
        ("numpyro_nuts.py", (28,)),
        ("diffrax_neural_ode.py", (51,)),
        ("gpt_mesh.py", (63,)),
    ],
)
def test_a_public_script(script, lines):
    plain, ours = start(SCRIPTS, script), start_ours(SCRIPTS, "--compare", script)
    check_equal(plain, ours)
    assert plain.status == 0 and plain.stdout
    verdicts = {place: row["verdict"] for place, row in rows(ours.table).items()}
    assert verdicts == {f"{script}:{line}": "PASS" for line in lines}, ours.table
