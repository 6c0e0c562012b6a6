"""The filter gradient by products, against the convolution that it replaces."""

import jax
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.products import conv_patches

from ..checking import TOLERANCE, assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")
LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("HWNC", "IHWO", "NHCW")]


def normal(*shape, dtype="float64", seed=0):
    return random_like(np.zeros(shape, dtype), seed)


def operands(layout, batch=4, height=5, width=6, features=2, outputs=3, kernel=(3, 2), dtype="float64"):
    sizes = {"N": batch, "H": height, "W": width, "C": features}
    x = normal(*(sizes[k] for k in layout[0]), dtype=dtype)
    sizes = {"H": kernel[0], "W": kernel[1], "I": features, "O": outputs}
    return x, normal(*(sizes[k] for k in layout[1]), dtype=dtype, seed=1)


def convolution(layout, strides=(1, 1), padding="SAME", dilation=(1, 1), **params):
    def apply(x, w):
        return lax.conv_general_dilated(
            x, w, strides, padding, rhs_dilation=dilation, dimension_numbers=layout, **params
        )

    return apply


@pytest.fixture
def always(monkeypatch):
    """Products whatever the shape is, of two examples at a time."""
    monkeypatch.setattr(conv_patches, "products_win", lambda *_: True)
    monkeypatch.setattr(conv_patches, "ROWS", 60)


@pytest.mark.parametrize("features", [2, 8], ids=["rows of x on the left", "rows of dz on the left"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout[0])
@pytest.mark.parametrize(
    "how",
    [{}, {"strides": (2, 3)}, {"dilation": (2, 1)}, {"padding": [(2, 0), (-1, 1)], "strides": (2, 1)}],
    ids=["plain", "strides", "dilation", "cropped"],
)
def test_filter_products(always, how, layout, features):
    check_vjp(convolution(layout, **how), *operands(layout, features=features), order=1 + (not how), batched=not how)


@pytest.mark.parametrize("batch", [1, 3], ids=["one example", "a prime number of them"])
@pytest.mark.parametrize("rank", [1, 3])
def test_filter_products_of_another_rank(always, rank, batch):
    x, w = normal(batch, 2, *(4, 5, 3)[:rank]), normal(3, 2, *(2, 3, 2)[:rank], seed=1)
    check_vjp(lambda x, w: lax.conv_general_dilated(x, w, (1,) * rank, "SAME"), x, w, order=1, batched=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_filter_products_element_types(always, dtype):
    x, w = operands(LAYOUTS[0], dtype=dtype)
    z, pullback = fb.vjp(convolution(LAYOUTS[0]), x, w)
    dz = random_like(z, 2)
    _, exact = jax.vjp(convolution(LAYOUTS[0]), *(a.astype("float64") for a in (x, w)))
    want = tuple(a.astype(dtype) for a in exact(dz.astype("float64")))
    assert_close(pullback(dz), want, TOLERANCE[dtype] / 4)


def test_filter_products_are_rounded_once(always):
    """To bfloat16, and not after each of the sums over two examples."""
    x, w = operands(LAYOUTS[0], batch=128, dtype="bfloat16")
    z, pullback = fb.vjp(convolution(LAYOUTS[0]), x, w)
    dz = random_like(z, 2)
    _, exact = jax.vjp(convolution(LAYOUTS[0]), *(a.astype("float64") for a in (x, w)))
    dw, want = (np.asarray(d, np.float64) for d in (pullback(dz)[1], exact(dz.astype("float64"))[1]))
    assert np.linalg.norm(dw - want) <= 2**-8.5 * np.linalg.norm(want)


def test_filter_products_take_the_precision_of_each_operand(always):
    x, w = operands(LAYOUTS[0], features=8, dtype="float32")
    apply = convolution(LAYOUTS[0], precision=("highest", "default"))
    jaxpr = jax.make_jaxpr(fb.grad(lambda w: apply(x, w).sum()))(w)
    assert "(Precision.DEFAULT, Precision.HIGHEST)" in str(jaxpr) or "[DEFAULT, HIGHEST]" in str(jaxpr)


def large(features=32, outputs=32, size=16, **sizes):
    return operands(LAYOUTS[0], 2, size, size, features, outputs, (3, 3), dtype="float32", **sizes)


def gradient(x, w, **params):
    return jax.jit(fb.grad(lambda w: (convolution(LAYOUTS[0], **params)(x, w) ** 2).sum()))


def test_a_large_convolution_uses_products_on_a_cpu_alone():
    x, w = large()
    traced = gradient(x, w).trace(w)
    texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    count = {platform: text.count("stablehlo.convolution") for platform, text in texts.items()}
    assert count == {"cpu": 1, "cuda": 2, "tpu": 2}
    with jax.enable_x64(True):
        exact = jax.grad(lambda w: (convolution(LAYOUTS[0])(x.astype("float64"), w) ** 2).sum())(w.astype("float64"))
    assert_close(gradient(x, w)(w), exact.astype("float32"), TOLERANCE["float32"])
    assert_close(
        fb.grad(lambda w: (convolution(LAYOUTS[0])(x, w) ** 2).sum())(w), exact.astype("float32"), TOLERANCE["float32"]
    )


@pytest.mark.parametrize(
    "sizes, params",
    [
        ({"size": 8}, {}),
        ({"outputs": 16, "features": 64}, {}),
        ({"features": 4}, {}),
        ({"features": 64}, {}),
        ({"outputs": 64}, {"feature_group_count": 2}),
    ],
    ids=["small images", "few outputs", "few features", "more features than outputs", "groups"],
)
def test_other_convolutions_keep_the_convolution(sizes, params):
    x, w = large(**sizes)
    if params:
        x = normal(*x.shape[:3], 64, dtype="float32")
    text = gradient(x, w, **params).lower(w).as_text()
    assert text.count("stablehlo.convolution") == 2


def test_a_shift_by_a_wrong_step_is_found(always, monkeypatch):
    right = conv_patches._shifted
    monkeypatch.setattr(conv_patches, "_shifted", lambda x, axis, offset, conv: right(x, axis, min(offset, 1), conv))
    with pytest.raises(AssertionError, match="vjp"):
        check_vjp(convolution(LAYOUTS[0]), *operands(LAYOUTS[0]))
