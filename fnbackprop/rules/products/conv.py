"""Convolutions: conv_general_dilated. `dx` is the cotangent of `x`: same shape, same dtype.

Along one spatial axis, with stride s, padding (p, q), dilation a of the input x and b of the kernel w, a convolution
pairs every x[j] and w[k] with the output z[i] for which i·s + k·b = j·a + p:

    z[i] = Σ x[j] w[k]  over all j, k with i·s + k·b = j·a + p.

Its sums for dx and dw run over the same triples (i, j, k), so both are convolutions again:

    dx[j] = Σ dz[i] w[k]. With w reversed, k = K−1−k', the condition is j·a + k'·b = i·s + ((K−1)·b − p): the input is
            dz dilated by s, the stride a, the kernel's dilation b, the padding in front (K−1)·b − p.
    dw[k] = Σ x[j] dz[i]. The condition reads k·b + i·s = j·a + p: the input is x, the kernel dz dilated by s, the
            stride b, the padding in front p.

So each of x, w and z has a *step* between its positions, a, b and s, and the three exchange their parts. The padding
behind is what makes the output as long as the operand: `_convolve` counts it. Either padding may come out negative,
which crops.

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

from functools import partial
from typing import Any, NamedTuple

from jax import lax

from ...backprop.registry import vjp_rule
from .conv_patches import filter_cotangent
from .dot import accumulator, product_sharding, swapped


class Part(NamedTuple):
    """x, w or z in a convolution: its axes (batch, feature, *space), or (output, input, *space) of w; its spatial
    sizes; and the step between its positions, along each spatial axis."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    step: tuple[int, ...]

    def exchanged(self) -> "Part":
        """The first two axes in each other's place."""
        first, second, *space = self.axes
        return self._replace(axes=(second, first, *space))


class Convolution(NamedTuple):
    """The parameters of z = conv(x, w), by their names in the formulas above."""

    x: Part
    w: Part
    z: Part
    front: tuple[int, ...]  # p
    by_feature: int  # groups
    by_batch: int
    precision: Any


def _convolution(x: Any, w: Any, z: Any, params: dict[str, Any]) -> Convolution:
    steps = params["lhs_dilation"], params["rhs_dilation"], params["window_strides"]
    columns = zip((x, w, z), params["dimension_numbers"], steps, strict=True)
    parts = [Part(tuple(axes), tuple(a.shape[i] for i in axes[2:]), tuple(step)) for a, axes, step in columns]
    front = tuple(p for p, _ in params["padding"])
    return Convolution(*parts, front, params["feature_group_count"], params["batch_group_count"], params["precision"])


@vjp_rule("conv_general_dilated", "x, w -> z", wrt="x")
def conv_general_dilated_vjp_x(dz, w, x_aval, **params):
    """dx[j] = Σ dz[i] w[k], a convolution of dz with the reversed kernel."""
    if 0 in (dz.size, x_aval.size, w.size):
        return None
    conv = _convolution(x_aval, w, dz, params)
    sharding = product_sharding(x_aval, dz, w)
    if _is_pointwise(conv) and sharding is None:
        return _pointwise_product_x(dz, w, conv)
    groups = max(conv.by_feature, conv.by_batch)
    kernel = _move_groups(lax.rev(w, conv.w.axes[2:]), *conv.w.axes[:2], groups)
    dx = _convolve(
        dz,
        kernel,
        (conv.z, conv.w.exchanged(), conv.x),
        front=[(k - 1) * b - p for k, b, p in zip(conv.w.sizes, conv.w.step, conv.front, strict=True)],
        feature_group_count=groups,
        precision=conv.precision,
        out_sharding=sharding if conv.by_batch == 1 else None,
    )
    batch, feature = conv.x.axes[:2]
    return _move_groups(dx, feature, batch, conv.by_batch)


@vjp_rule("conv_general_dilated", "x, w -> z", wrt="w")
def conv_general_dilated_vjp_w(dz, x, w_aval, **params):
    """dw[k] = Σ x[j] dz[i], a convolution of x with the kernel dz."""
    if 0 in (dz.size, x.size, w_aval.size):
        return None
    conv = _convolution(x, w_aval, dz, params)
    sharding = product_sharding(w_aval, dz, x)
    if _is_pointwise(conv) and sharding is None:
        return _pointwise_product_w(dz, x, w_aval, conv)
    by_convolution = partial(
        _convolve,
        parts=(conv.x.exchanged(), conv.z.exchanged(), conv.w.exchanged()),
        front=conv.front,
        feature_group_count=conv.by_batch,
        batch_group_count=conv.by_feature,
        precision=conv.precision,
        out_sharding=sharding,
    )
    return by_convolution(x, dz) if sharding else filter_cotangent(x, dz, conv, by_convolution)


def _is_pointwise(conv: Convolution) -> bool:
    """Whether the kernel is one point, and every z[i] is of x[i]."""
    ones = (*conv.z.step, *conv.x.step, *conv.w.sizes, conv.by_feature, conv.by_batch)
    return set(ones) == {1} and conv.x.sizes == conv.z.sizes and not any(conv.front)


def _pointwise_product_x(dz: Any, w: Any, conv: Convolution) -> Any:
    """dx of a convolution whose kernel is one point: Σ dz w over the outputs, one contraction."""
    (z_batch, z_output, *z_space), (x_batch, x_feature, *x_space) = conv.z.axes, conv.x.axes
    output, feature, *_ = conv.w.axes
    w = lax.reshape(w, [w.shape[axis] for axis in sorted((output, feature))])
    numbers = (((z_output,), (int(output > feature),)), ((), ()))
    dtype = accumulator(dz, w)
    product = lax.dot_general(dz, w, numbers, precision=conv.precision, preferred_element_type=dtype)
    kept = [axis for axis in range(dz.ndim) if axis != z_output]  # the product's axes but for the feature, its last
    places = {x_batch: kept.index(z_batch), x_feature: dz.ndim - 1}
    places |= {axis: kept.index(z_axis) for axis, z_axis in zip(x_space, z_space, strict=True)}
    return lax.transpose(product, [places[axis] for axis in range(dz.ndim)])


def _pointwise_product_w(dz: Any, x: Any, w_aval: Any, conv: Convolution) -> Any:
    """dw of a convolution whose kernel is one point: Σ x dz over batch and space, one contraction (on a CPU, 1.5 to 5
    times as fast as the convolution)."""
    (x_batch, _, *x_space), (z_batch, _, *z_space), precision = conv.x.axes, conv.z.axes, conv.precision
    factors = [(x, (x_batch, *x_space)), (dz, (z_batch, *z_space))]  # each with the axes that are summed
    output, feature, *_ = conv.w.axes
    if output < feature:
        factors, precision = factors[::-1], swapped(precision)
    (left, left_axes), (right, right_axes) = factors
    numbers = ((left_axes, right_axes), ((), ()))
    dtype = accumulator(x, dz)
    product = lax.dot_general(left, right, numbers, precision=precision, preferred_element_type=dtype)
    return lax.reshape(product, w_aval.shape)


def _convolve(left: Any, right: Any, parts: tuple[Part, Part, Part], front: Any, **params: Any) -> Any:
    """The convolution of two operands that are given these parts, as is the output.

    The windows reach over (out-1)·step + (right-1)·step + 1 positions, of which the paddings and the left operand cover
    front + (left-1)·step + 1 + behind. Of two dtypes the narrower one, of a wider result, is widened.
    """
    reaches = ([(n - 1) * s for n, s in zip(part.sizes, part.step, strict=True)] for part in parts)
    padding = [(p, o + k - n - p) for p, n, k, o in zip(front, *reaches, strict=True)]
    left_part, right_part, out_part = parts
    dtype = max(left.dtype, right.dtype, key=lambda dtype: dtype.itemsize)
    return lax.conv_general_dilated(
        lax.convert_element_type(left, dtype),
        lax.convert_element_type(right, dtype),
        window_strides=out_part.step,
        padding=padding,
        lhs_dilation=left_part.step,
        rhs_dilation=right_part.step,
        dimension_numbers=lax.ConvDimensionNumbers(*(part.axes for part in parts)),
        **params,
    )


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
