"""Convolutions: conv_general_dilated. `dx` is the cotangent of `x`: same shape, same dtype.

Along one spatial axis, with stride s, padding (p, q), dilation a of the input x and b of the kernel w, a convolution
pairs every x[j] and w[k] with the output z[i] for which i·s + k·b = j·a + p:

    z[i] = Σ x[j] w[k]  over all j, k with i·s + k·b = j·a + p.

Its sums for dx and dw run over the same triples (i, j, k), so both are convolutions again:

    dx[j] = Σ dz[i] w[k]. With w reversed, k = K−1−k', the condition is j·a + k'·b = i·s + ((K−1)·b − p): the input is
            dz dilated by s, the stride a, the kernel's dilation b, the padding in front (K−1)·b − p.
    dw[k] = Σ x[j] dz[i]. The condition reads k·b + i·s = j·a + p: the input is x, the kernel dz dilated by s, the
            stride b, the padding in front p.

The padding behind is what makes the output as long as the operand; `_padding` counts it. Either padding may come out
negative, which crops.

Across batch n, input feature c and output feature o, z[n, o] = Σ_c x[n, c] w[o, c]. For dx, w's o and c exchange their
parts; for dw, x's n and c do, and so do dz's n and o as a kernel's. With groups, g is the major part of an index:

    by feature: z[n, go] = Σ_c x[n, gc] w[go, c].
                dx[n, gc] = Σ_o dz[n, go] w[go, c] is grouped by feature, with the kernel w[gc, o];
                dw[go, c] = Σ_n x[n, gc] dz[n, go] has (g, c) for its batch, n for its feature: grouped by batch.
    by batch:   z[n, go] = Σ_c x[gn, c] w[go, c].
                dx[gn, c] = Σ_o dz[n, go] w[go, c] is grouped by feature, with the kernel w[gc, o]; it gives dx[n, gc],
                whose g then moves to n;
                dw[go, c] = Σ_n x[gn, c] dz[n, go] has c for its batch, (g, n) for its feature: grouped by feature.
"""

from collections.abc import Sequence
from typing import Any

from jax import lax

from ...backprop.registry import vjp_rule
from .dot import accumulator, cotangent_sharding


@vjp_rule("conv_general_dilated", "x, w -> z", wrt="x")
def conv_general_dilated_vjp_x(
    dz,
    w,
    x_aval,
    *,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count,
    batch_group_count,
    precision,
    **params,
):
    """dx: dz, dilated by the strides, with the reversed kernel and stride `lhs_dilation`."""
    if 0 in (dz.size, x_aval.size, w.size):
        return None
    x_spec, w_spec, z_spec = dimension_numbers
    groups = max(feature_group_count, batch_group_count)
    kernel = _move_groups(lax.rev(w, w_spec[2:]), w_spec[0], w_spec[1], groups)
    x_sizes, w_sizes, z_sizes = (_sizes(a, spec) for a, spec in zip((x_aval, w, dz), dimension_numbers, strict=True))
    front = [(k - 1) * b - p for k, b, (p, _) in zip(w_sizes, rhs_dilation, padding, strict=True)]
    dx = _convolve(
        dz,
        kernel,
        window_strides=lhs_dilation,
        padding=_padding(front, x_sizes, lhs_dilation, w_sizes, rhs_dilation, z_sizes, window_strides),
        lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(z_spec, _exchanged(w_spec), x_spec),
        feature_group_count=groups,
        precision=precision,
        out_sharding=cotangent_sharding(x_aval, dz, w) if batch_group_count == 1 else None,
    )
    return _move_groups(dx, x_spec[1], x_spec[0], batch_group_count)


@vjp_rule("conv_general_dilated", "x, w -> z", wrt="w")
def conv_general_dilated_vjp_w(
    dz,
    x,
    w_aval,
    *,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count,
    batch_group_count,
    precision,
    **params,
):
    """dw: x with the kernel dz, dilated by the strides, and stride `rhs_dilation`."""
    if 0 in (dz.size, x.size, w_aval.size):
        return None
    x_spec, w_spec, z_spec = dimension_numbers
    x_sizes, w_sizes, z_sizes = (_sizes(a, spec) for a, spec in zip((x, w_aval, dz), dimension_numbers, strict=True))
    front = [p for p, _ in padding]
    sharding = cotangent_sharding(w_aval, dz, x)
    ones = (*window_strides, *lhs_dilation, *w_sizes, feature_group_count, batch_group_count)
    if set(ones) == {1} and x_sizes == z_sizes and not any(front) and sharding is None:
        return _pointwise_product(dz, x, w_aval, dimension_numbers, precision)
    return _convolve(
        x,
        dz,
        window_strides=rhs_dilation,
        padding=_padding(front, w_sizes, rhs_dilation, z_sizes, window_strides, x_sizes, lhs_dilation),
        lhs_dilation=lhs_dilation,
        rhs_dilation=window_strides,
        dimension_numbers=lax.ConvDimensionNumbers(_exchanged(x_spec), _exchanged(z_spec), _exchanged(w_spec)),
        feature_group_count=batch_group_count,
        batch_group_count=feature_group_count,
        precision=precision,
        out_sharding=sharding,
    )


def _pointwise_product(dz: Any, x: Any, w_aval: Any, dimension_numbers: Any, precision: Any) -> Any:
    """dw of a convolution whose kernel is one point: Σ x dz over batch and space, one contraction (on a CPU, 1.5 to 5
    times as fast as the convolution)."""
    x_spec, w_spec, z_spec = dimension_numbers
    factors = [(x, _exchanged(x_spec)[1:]), (dz, _exchanged(z_spec)[1:])]  # each with its axes but the feature
    if w_spec[0] < w_spec[1]:  # the kernel's output features come first
        factors, precision = factors[::-1], precision and precision[::-1]
    (left, left_over), (right, right_over) = factors
    numbers = ((left_over, right_over), ((), ()))
    dtype = accumulator(x, dz)
    product = lax.dot_general(left, right, numbers, precision=precision, preferred_element_type=dtype)
    return lax.reshape(product, w_aval.shape)


def _padding(front, out, strides, kernel, kernel_dilation, size, dilation) -> list[tuple[int, int]]:
    """The padding in front, and behind it that which gives outputs of the sizes `out`, one entry per spatial axis.

    The windows reach over (out−1)·stride + (kernel−1)·dilation + 1 positions, of which the padding in front and the
    input cover front + (size−1)·dilation + 1.
    """
    columns = zip(front, out, strides, kernel, kernel_dilation, size, dilation, strict=True)
    return [(p, (o - 1) * s + (k - 1) * b - (n - 1) * a - p) for p, o, s, k, b, n, a in columns]


def _sizes(x: Any, spec: Sequence[int]) -> list[int]:
    """The spatial sizes of an operand."""
    return [x.shape[a] for a in spec[2:]]


def _exchanged(spec: Sequence[int]) -> tuple[int, ...]:
    """A layout in which the first two axes, batch and feature, have exchanged their parts."""
    return (spec[1], spec[0], *spec[2:])


def _move_groups(x: Any, source: int, target: int, groups: int) -> Any:
    """Move the groups, the major part of axis `source`, to be the major part of axis `target`."""
    if groups == 1:
        return x
    shape = list(x.shape)
    split = [*shape[:source], groups, shape[source] // groups, *shape[source + 1 :]]
    target_after = target if target < source else target + 1  # where the target axis lies once the source is split
    order = [a for a in range(len(split)) if a != source]
    order.insert(order.index(target_after), source)
    shape[source], shape[target] = shape[source] // groups, shape[target] * groups
    return lax.reshape(lax.transpose(lax.reshape(x, split), order), shape)


def _convolve(x: Any, w: Any, **params: Any) -> Any:
    """A convolution of operands that may differ in dtype: the narrower, of a wider result, is widened."""
    dtype = max(x.dtype, w.dtype, key=lambda dtype: dtype.itemsize)
    x, w = (lax.convert_element_type(a, dtype) for a in (x, w))
    return lax.conv_general_dilated(x, w, **params)
