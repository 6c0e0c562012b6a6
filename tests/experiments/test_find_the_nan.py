"""The run ends at the empty document, the line is found, and the mended run goes on."""

import numpy as np

from .loading import expected_last_line, load_module, words


def test_the_line_is_found(tmp_path, monkeypatch, capsys):
    module = load_module("find_the_nan")
    seed = next(  # one whose second batch holds the empty document, so that the run is short
        seed for seed in range(1000) if 200 in np.random.default_rng((seed, 1)).choice(400, 8, replace=False)
    )
    monkeypatch.chdir(tmp_path)
    module.find(module.Config(steps=4, seed=seed))
    printed = capsys.readouterr().out
    assert "The gradient broke first, at step 1" in printed or "is nan at step 1;" in printed
    assert "origin: undefined: a value became NaN at sub, find_the_nan.py:" in printed
    assert "scores = jnp.where(visible[:, None], scores, lowest)" in printed
    last = printed.splitlines()[-1]
    assert words(last) == words(expected_last_line(module)) and last.startswith("the gradient is NaN at step 1;")
