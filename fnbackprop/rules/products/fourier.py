"""Fourier transforms: fft. `dx` is the cotangent of `x`: same shape, same dtype.

Over axes of lengths n (of the last one m, of all their product N), with ω_jk = exp(−2πi Σ jk/n) summed over the axes:

    FFT:    y_k = Σ_j x_j ω_jk, a symmetric matrix: dx = FFT(dy). IFFT likewise: dx = IFFT(dy).
    IRFFT:  y_j = Re Σ_k (w_k/N) x_k conj(ω_jk), where k stops at m/2 in the last axis and w_k weighs the half spectrum:
            2 for a frequency that stands for its mirror image too, 1 for k = 0 and k = m/2, which are their own. So
            dx_k = (w_k/N) Σ_j dy_j conj(ω_jk), and this is (w/N) conj(RFFT(dy)), as dy is real.
    RFFT:   x is real and k stops at m/2: dx_j = Re Σ_k dy_k ω_jk. Of one axis that is m IRFFT(conj(dy)/w), of several
            the FFT of dy with zeros behind.
"""

import math
from typing import Any

import numpy as np
from jax import lax

from ..expressions import Expr, complex_of_parts, lift, vjp_rule
from ..linear_algebra.matrices import padded

fft = lift(lax.fft)


@vjp_rule("fft")
def fft_vjp(dy, *, fft_type, fft_lengths):
    """FFT and IFFT are their own transposes; the real transforms are above."""
    if 0 in dy.shape:
        return None
    if fft_type == lax.FftType.RFFT and len(fft_lengths) == 1:
        return _one_rfft_vjp(dy, fft_lengths)
    if fft_type == lax.FftType.RFFT:
        full = padded(dy, (0, fft_lengths[-1] - dy.shape[-1]))
        return fft(full, lax.FftType.FFT, fft_lengths)  # the engine takes the real part
    if fft_type == lax.FftType.IRFFT:
        spectrum = fft(dy, lax.FftType.RFFT, fft_lengths).conj()
        return spectrum * _row(_half_spectrum_weights(fft_lengths[-1]) / math.prod(fft_lengths), spectrum)
    return fft(dy, fft_type, fft_lengths)


def _one_rfft_vjp(dy: Expr, fft_lengths: tuple[int]) -> Expr:
    """m IRFFT(conj(dy)/w). Frequencies that are their own mirror images are real there: not every platform ignores an
    imaginary part."""
    (m,) = fft_lengths
    w = _half_spectrum_weights(m)
    real, imag = dy.real, dy.imag
    halves = complex_of_parts(real * _row(m / w, real), imag * _row(np.where(w == 1, 0, -m / w), imag))
    return fft(halves, lax.FftType.IRFFT, fft_lengths)


def _row(numbers: np.ndarray, like: Expr) -> Any:
    """Numbers along the last axis of an array, in its shape and dtype."""
    return lax.broadcast_in_dim(numbers.astype(like.dtype), like.shape, (like.ndim - 1,))


def _half_spectrum_weights(length: int) -> np.ndarray:
    """How many frequencies of the full spectrum each of the half stands for: its own and its mirror image."""
    k = np.arange(length // 2 + 1)
    return np.where(2 * k % length == 0, 1.0, 2.0)
