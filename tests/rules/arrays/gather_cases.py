"""Raw gathers with generated dimension numbers: every role that a dimension can have, in every mode."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from jax import lax

MODES = ["clip", "fill", "promise_in_bounds"]


def generated(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


class GatherCase(NamedTuple):
    """The operand's shape, the starts, and all parameters of one `lax.gather`."""

    shape: tuple[int, ...]
    starts: np.ndarray
    dimensions: lax.GatherDimensionNumbers
    slice_sizes: tuple[int, ...]
    mode: str

    def gather(self, x, **flags):
        return lax.gather(x, jnp.asarray(self.starts), self.dimensions, self.slice_sizes, mode=self.mode, **flags)

    @property
    def update_shape(self):
        return jax.eval_shape(self.gather, jax.ShapeDtypeStruct(self.shape, "float64")).shape

    def scatter(self, operation, x, u):
        """The scatter that writes where the gather reads."""
        d = self.dimensions
        batching = d.operand_batching_dims, d.start_indices_batching_dims
        dimensions = lax.ScatterDimensionNumbers(d.offset_dims, d.collapsed_slice_dims, d.start_index_map, *batching)
        return operation(x, jnp.asarray(self.starts), u, dimensions, mode=self.mode)


@st.composite
def gather_cases(draw):
    """Each operand dimension is a batching one, collapsed, or kept as a window; the latter two may have a start."""
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    roles = [draw(st.sampled_from(["batch", "collapsed", "window", "window"])) for _ in shape]
    batching = [d for d in range(rank) if roles[d] == "batch"]
    collapsed = [d for d in range(rank) if roles[d] == "collapsed"]
    windows = [d for d in range(rank) if roles[d] == "window"]
    started = [d for d in range(rank) if d not in batching and draw(st.booleans())]
    start_index_map = draw(st.permutations(started))
    sizes = tuple(draw(st.integers(1, n)) if d in windows else 1 for d, n in enumerate(shape))

    free = [draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, 2)))]
    order = draw(st.permutations(range(len(batching) + len(free))))  # of the batching and free dimensions of the starts
    lead = [[*(shape[d] for d in batching), *free][k] for k in order]
    starts_batching = [order.index(k) for k in range(len(batching))]
    mode = draw(st.sampled_from(MODES))
    beyond = 0 if mode == "promise_in_bounds" else 3
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    limits = [shape[d] - sizes[d] for d in start_index_map]
    columns = [rng.integers(-beyond, n + beyond + 1, size=lead) for n in limits]
    starts = np.stack(columns, -1) if columns else np.zeros((*lead, 0), int)

    out_rank = len(lead) + len(windows)
    offset = sorted(draw(st.permutations(range(out_rank)))[: len(windows)])
    dimensions = lax.GatherDimensionNumbers(
        tuple(offset), tuple(collapsed), tuple(start_index_map), tuple(batching), tuple(starts_batching)
    )
    return GatherCase(shape, starts, dimensions, sizes, mode)
