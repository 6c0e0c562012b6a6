"""The call of the attention block in the place of equations that were matched."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ..tiled_attention import tiled_attention
from .attention_pattern import AttentionFound, match
from .attention_scores import Aligned, Miss
from .axes import Axes, Label, axis_of, refined
from .graph import Graph
from .positions import Band, position_of

Groups = Sequence[Sequence[Label]]


class AttentionCall:
    """What the block is called with. Raises Miss where it cannot be.

    batch, heads, group, queries, keys, size, values: the labels of the axes that the block's axes merge.
    """

    def __init__(self, graph: Graph, found: AttentionFound):
        self.graph, self.found = graph, found
        scores, self.equations, self.replaced, self.first = found.scores, found.equations, [found.product], []
        self.product = scores.product  # whose result is never held
        contracted, batched = scores.product.params["dimension_numbers"]
        sides = (0, 1) if found.keys[0].kind == "right" else (1, 0)
        self.q, self.k = (scores.product.invars[side] for side in sides)
        self.q_axes, self.k_axes = (
            refined(operand_axes(scores.product.invars[side], side, contracted[side], batched[side]), scores.parts)
            for side in sides
        )
        self.of_q, self.of_k = self._split_arrays()
        labels = [label for axis in scores.axes for label in axis]
        batch = [*found.shared, *(label for label in labels if label.kind == "batch")]
        rows = [label for label in labels if label not in (*batch, *found.keys)]
        self.bands, self.masks = self._split_masks(rows)
        queries = next(iter(self.bands), None) or max(rows, key=lambda label: label.size, default=None)
        laid_out = [label for axis in self.q_axes for label in axis]
        inner = laid_out[laid_out.index(queries) :] if queries else []
        self.batch = [label for label in batch if label not in inner] if set(batch) & set(inner) else batch[:1]
        self.heads = [label for label in batch if label not in self.batch]  # in q after the queries, as the block's are
        self.queries = [queries] if queries else []
        self.group = [label for label in rows if label != queries]
        self.size = [label for axis in self.q_axes for label in axis if label.kind == "size"]
        self._place_values()
        operands = (self.q, self.k, self.v)
        if not all(jnp.issubdtype(x.aval.dtype, jnp.floating) for x in operands):
            raise Miss("the operands are not real floating numbers")

    def _split_arrays(self) -> tuple[list[Aligned], list[Aligned]]:
        """What the scores are multiplied with, as factors of the queries and of the keys."""
        found, sides = ([], []), [{label for axis in axes for label in axis} for axes in (self.q_axes, self.k_axes)]
        for array in self.found.scores.arrays:
            own = {label for axis in array.axes for label in axis}
            fits = [which for which, labels in zip(found, sides, strict=True) if own <= labels]
            if not fits:
                raise Miss(f"the scores are multiplied with an array at {array.line}, another for each pair")
            fits[0].append(array)
        return found

    def _split_masks(self, rows: list[Label]) -> tuple[dict[Label, list[tuple[Any, Any]]], list[Aligned]]:
        """Bands of positions, by the label of their queries, and the masks that only their values tell."""
        bands: dict[Label, list] = {}
        others = []
        for mask in self.found.scores.masks:
            band = None if mask.inverted else position_of(self.graph, mask.atom)
            place = self._band_place(band, mask.axes, rows)
            if place is not None and (not bands or place[0] in bands):
                bands.setdefault(place[0], []).append(place[1:])
            elif not (isinstance(band, Band) and band.row is None):
                others.append(mask)
        return bands, others

    def _band_place(self, band: Any, axes: Axes, rows: list[Label]) -> tuple[Label, Any, Any] | None:
        if not isinstance(band, Band) or band.row is None or band.column is None:
            return None
        row, column = axes[band.row], axes[band.column]
        if column == tuple(self.found.keys) and len(row) == 1 and row[0] in rows:
            return row[0], band.left, band.right
        if row == tuple(self.found.keys) and len(column) == 1 and column[0] in rows:
            left, right = (None if bound is None else -bound for bound in (band.right, band.left))
            return column[0], left, right
        return None

    def _place_values(self) -> None:
        product, first = self.found.product, self.found.weights_first
        contracted, batched = product.params["dimension_numbers"]
        own, other = (0, 1) if first else (1, 0)
        weights = self.found.weights_axes
        if {label for i in contracted[own] for label in weights[i]} != set(self.found.keys):
            raise Miss("the product with the values does not sum over the keys alone")
        self.v, axes = product.invars[other], {}
        for i, j in zip((*batched[own], *contracted[own]), (*batched[other], *contracted[other]), strict=True):
            axes[j] = weights[i]
        of_values = {label for i in batched[own] for label in weights[i]}
        if not of_values.issuperset(self.found.shared):
            raise Miss("the keys differ from query to query")
        if any(label.kind != "batch" and label not in self.found.shared for label in of_values):
            raise Miss("the values differ from query to query")
        shape = self.v.aval.shape
        free = [i for i in range(len(shape)) if i not in axes]
        self.v_axes = tuple(axes[i] if i in axes else axis_of(Label("value", i, shape[i])) for i in range(len(shape)))
        self.values = [label for i in free for label in self.v_axes[i]]
        of_weights = [weights[i] for i in range(len(weights)) if i not in (*contracted[own], *batched[own])]
        of_values = [self.v_axes[i] for i in free]
        both = (*of_weights, *of_values) if first else (*of_values, *of_weights)
        self.out_axes = (*(weights[i] for i in batched[own]), *both)

    def __call__(self, equation: Any, read: Callable[[Any], Any], done: dict[int, Any]) -> list[Any]:
        """The result of the product with the values. `read` gives the value of an atom."""
        scale, factors = 1.0, []
        for atom, power in self.found.scores.factors:
            number = atom if isinstance(atom, float) else self.graph.number(atom)
            scale *= 1.0 if number is None else number**power
            factors += [] if number is not None else [read(atom) if power == 1 else 1 / read(atom)]
        dtype = jnp.result_type(*(x.aval.dtype for x in (self.q, self.k, self.v)))
        keys = self.found.keys
        of_q = self.batch, self.queries, self.heads, self.group, self.size
        of_k = self.batch, keys, self.heads, self.size
        q = _multiplied(arranged(read(self.q), self.q_axes, of_q, whole=True), self.of_q, of_q, read)
        k = _multiplied(arranged(read(self.k), self.k_axes, of_k, whole=True), self.of_k, of_k, read)
        v = arranged(read(self.v), self.v_axes, (self.batch, keys, self.heads, self.values), whole=True)
        for factor in factors:
            q = q * factor.astype(q.dtype)
        bias = _combined(jnp.add, [self._bias(bias, read) for bias in self.found.scores.biases])
        mask = _combined(jnp.logical_and, [self._mask(mask, read) for mask in self.masks])
        out = tiled_attention(
            q.astype(dtype), k.astype(dtype), v.astype(dtype), bias, mask, None, None,
            causal=False, window=self._window(), scale=scale, softcap=self.found.scores.cap, dropout=0.0,
        )  # fmt: skip
        labels = [*self.batch, *self.queries, *self.heads, *self.group, *self.values]
        aval = self.found.product.outvars[0].aval
        flat = out.reshape([label.size for label in labels]).astype(aval.dtype)
        order = [labels.index(label) for axis in self.out_axes for label in axis]
        return [jnp.transpose(flat, order).reshape(aval.shape)]

    def _window(self) -> tuple[Any, Any] | None:
        bounds = next(iter(self.bands.values()), [])
        lefts, rights = ([pair[i] for pair in bounds if pair[i] is not None] for i in (0, 1))
        left, right = max(lefts, default=None), min(rights, default=None)
        return None if left is None and right is None else (None if left is None else -left, right)

    def _pairs(self) -> Groups:
        return self.batch, self.heads, self.group, self.queries, self.found.keys

    def _bias(self, bias: Aligned, read: Callable) -> Any:
        x = arranged(jnp.asarray(read(bias.atom)), bias.axes, self._pairs())
        for atom, power in bias.factors:
            factor = jnp.asarray(atom if isinstance(atom, float) else read(atom)).astype(x.dtype)
            x = x * factor if power == 1 else x / factor
        return x

    def _mask(self, mask: Aligned, read: Callable) -> Any:
        x = arranged(jnp.asarray(read(mask.atom)), mask.axes, self._pairs())
        x = x if x.dtype == bool else x != 0
        return jnp.logical_not(x) if mask.inverted else x


def match_attention(graph: Graph, product: Any) -> AttentionCall | None:
    """The attention that ends in a product, or None. Raises Miss with the reason where the block cannot run it."""
    found = match(graph, product)
    return None if found is None else AttentionCall(graph, found)


def operand_axes(atom: Any, side: int, contracted: Any, batched: Any) -> Axes:
    """The axes of an operand of q kᵀ: those that are summed over are of its size."""
    shape, kind, found = atom.aval.shape, ("left", "right")[side], []
    for i, n in enumerate(shape):
        if i in contracted:
            label = Label("size", list(contracted).index(i), n)
        else:
            label = Label("batch", list(batched).index(i), n) if i in batched else Label(kind, i, n)
        found.append(axis_of(label))
    return tuple(found)


def arranged(x: Any, axes: Axes, groups: Groups, whole: bool = False) -> Any:
    """An array with an axis for each group of labels. A group of which it has no label becomes an axis of size 1, or,
    if `whole`, one along which it is repeated; it is repeated along labels that are missing beside others, too."""
    own = [label for axis in axes for label in axis]
    x = x.reshape([label.size for label in own])
    missing = [l for g in groups for l in g if l not in own and (whole or any(other in own for other in g))]
    x = jnp.broadcast_to(x[(...,) + (None,) * len(missing)], (*x.shape, *(label.size for label in missing)))
    own += missing
    order = [own.index(label) for group in groups for label in group if label in own]
    x = jnp.transpose(x, order)
    shape = []
    for group in groups:
        size = 1
        for label in group:
            size *= label.size if label in own else 1
        shape.append(size)
    return x.reshape(shape)


def _multiplied(x: Any, factors: list[Aligned], groups: Groups, read: Callable) -> Any:
    for factor in factors:
        own = arranged(jnp.asarray(read(factor.atom)), factor.axes, groups).astype(x.dtype)
        x = x * own if factor.power == 1 else x / own
    return x


def _combined(join: Callable, arrays: list[Any]) -> Any:
    if not arrays:
        return None
    shape = jnp.broadcast_shapes(*(x.shape for x in arrays))
    result = arrays[0]
    for x in arrays[1:]:
        result = join(jnp.broadcast_to(result, shape), jnp.broadcast_to(x, shape).astype(result.dtype))
    return result
