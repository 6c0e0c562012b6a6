"""A JAX that was not tested is told of, once, and no other."""

import warnings

import jax
import pytest

from fnbackprop.jaxprs.tested_versions import TESTED_JAX, UntestedVersionWarning, warn_of_untested_jax


@pytest.mark.parametrize("version", [(0, 10, 2), (0, 11, 0), (0, 12, 3)])
def test_tested_versions_are_silent(monkeypatch, version):
    monkeypatch.setattr(jax, "__version_info__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untested_jax()


@pytest.mark.parametrize("version", [(0, 13, 0), (1, 0, 0)])
def test_later_versions_warn(monkeypatch, version):
    monkeypatch.setattr(jax, "__version_info__", version)
    with pytest.warns(UntestedVersionWarning, match=rf"newer than .*\({TESTED_JAX[0]} to {TESTED_JAX[1]}\).* doctor"):
        warn_of_untested_jax()
