"""Every cause is recognised on an array changed that way, and none is invented."""

import jax
import numpy as np
import pytest

from fnbackprop.comparing.diagnosis import diagnose

REFERENCE = np.random.default_rng(0).normal(size=(6, 6))
COMPLEX = REFERENCE + 1j * REFERENCE[::-1]


def shifted(x):
    return np.vstack([np.zeros((1, 6)), x[:-1]])


@pytest.mark.parametrize(
    "reference, change, kind, text",
    [
        (REFERENCE, lambda x: -x, "sign", "the sign is flipped"),
        (REFERENCE, lambda x: 2 * x, "scale", "a factor 1/2 is missing: manual = 2 x automatic"),
        (REFERENCE, lambda x: x / 2, "scale", "a factor 2 is missing: manual = 0.5 x automatic"),
        (REFERENCE, lambda x: x / 32, "scale", "mean for sum, batch: manual = 0.03125 x automatic"),
        (REFERENCE, lambda x: 32 * x, "scale", "sum for mean, batch: manual = 32 x automatic"),
        (REFERENCE, lambda x: x * np.sqrt(32), "scale", "a factor 1/sqrt 32 is missing (batch)"),
        (REFERENCE, lambda x: x / 6, "scale", "a factor 6 is missing (axis"),
        (
            REFERENCE,
            lambda x: -3 * x,
            "scale",
            "a factor 1/3 is missing: manual = -3 x automatic and the sign is flipped",
        ),
        (REFERENCE, lambda x: 1.23 * x, "scale", "a factor is wrong: manual = 1.23 x automatic"),
        (REFERENCE, lambda x: x.T, "transpose", "transposed"),
        (REFERENCE, lambda x: 2 * x.T, "transpose", "transposed, and a factor 1/2 is missing"),
        (REFERENCE, lambda x: x[::-1], "flip", "reversed along axis 0"),
        (REFERENCE, lambda x: np.roll(x, -1, 1), "roll", "roll -1 along axis 1"),
        (REFERENCE, shifted, "roll", "shifted by +1 along axis 0"),
        (REFERENCE, lambda x: np.broadcast_to(x.mean(1, keepdims=True), x.shape), "mean", "the mean over axis 1"),
        (REFERENCE, lambda x: x - x.mean(0), "mean", "the mean over axis 0 is subtracted"),
        (REFERENCE, lambda x: 0 * x, "zero", "manual is zero"),
        (REFERENCE, np.tril, "mask", "zero outside a mask: the cotangent is dropped at 15 of 36 elements"),
        (np.tril(REFERENCE), lambda x: x + np.triu(REFERENCE, 1), "mask", "a mask is missing: 15 of 36 elements"),
        (np.tril(REFERENCE), lambda x: np.triu(REFERENCE), "mask", "a different mask: 15 of 36 elements"),
        (REFERENCE, lambda x: np.where(np.arange(6)[:, None] == 4, x**2, x), "slice", "wrong only at 4 of axis 0"),
        (COMPLEX, np.conj, "conjugate", "the conjugate is forgotten"),
        (COMPLEX, np.real, "real", "the imaginary part is dropped"),
    ],
)
def test_a_cause_is_recognised(reference, change, kind, text):
    found = diagnose(change(reference), reference, 1e-15, {32: "batch"})
    assert found.kind == kind and found.text.startswith(text)
    assert not found.residual > 1e-12


def test_a_cause_is_found_beside_rounding_and_not_beyond_it():
    noise = 1e-7 * np.random.default_rng(1).normal(size=(6, 6))
    assert diagnose(2 * REFERENCE + noise, REFERENCE, 1e-7).kind == "scale"
    assert diagnose(2 * REFERENCE + 1e4 * noise, REFERENCE, 1e-7) is None


def test_no_cause_is_invented():
    other = np.random.default_rng(2).normal(size=(6, 6))
    assert diagnose(other, REFERENCE, 1e-7) is None
    assert diagnose(np.zeros((0, 3)), np.zeros((0, 3)), 1e-7) is None
    assert diagnose(other, 0 * REFERENCE, 1e-7).kind == "nonzero"


def test_a_bfloat16_array():
    low = np.asarray(jax.numpy.asarray(3 * REFERENCE, "bfloat16"))
    assert diagnose(low, REFERENCE, 2.0**-8).text.startswith("a factor 1/3 is missing")
