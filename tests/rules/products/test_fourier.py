"""fft: complex and real transforms of odd and even lengths over one to three axes, batched."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.rules.products import fourier

from ..checking import check_numeric, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")

LENGTHS = [(1,), (2,), (5,), (6,), (3, 4), (4, 3), (1, 5), (2, 3, 4), (3, 2, 5)]


def operand(kind, lengths, batch):
    """A random operand of the transform: real for RFFT, half a spectrum for IRFFT."""
    last = lengths[-1] // 2 + 1 if kind == "IRFFT" else lengths[-1]
    dtype = "float64" if kind == "RFFT" else "complex128"
    return random_like(np.zeros((*batch, *lengths[:-1], last), dtype))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kind", ["FFT", "IFFT", "RFFT", "IRFFT"])
def test_fft_vjp(kind, lengths):
    small = len(lengths) < 3
    check_vjp(lambda x: lax.fft(x, kind, lengths), operand(kind, lengths, (2,) if small else ()), batched=small)


@pytest.mark.parametrize("kind", ["FFT", "IFFT", "RFFT", "IRFFT"])
def test_fft_vjp_of_nothing(kind):
    check_vjp(lambda x: lax.fft(x, kind, (4,)), operand(kind, (4,), (0,)), batched=False)


@pytest.mark.parametrize("length", [5, 6])
def test_fft_vjp_by_differences(length):
    """Through both parts of the spectrum and back, against differences."""

    def filtered(x, gain):
        spectrum = jnp.fft.rfft(x)
        return jnp.fft.irfft(spectrum * lax.complex(gain, gain * gain), length)

    check_numeric(filtered, random_like(np.zeros(length)), random_like(np.zeros(length // 2 + 1), 1))


@pytest.mark.parametrize("kind", ["RFFT", "IRFFT"])
def test_a_wrong_half_spectrum_is_found(kind, monkeypatch):
    monkeypatch.setattr(fourier, "_half_spectrum_weights", lambda n: np.full(n // 2 + 1, 2.0))
    for length in (5, 6):
        with pytest.raises(AssertionError, match="vjp"):
            check_vjp(lambda x, n=length: lax.fft(x, kind, (n,)), operand(kind, (length,), ()))
