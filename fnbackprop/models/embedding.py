"""A table of vectors, looked up by integer tokens; transposed, it is the head of a language model."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

Params = dict[str, Any]


def init(
    key: jax.Array, *, vocabulary: int, width: int, deviation: float = 0.02, dtype: jax.typing.DTypeLike = jnp.float32
) -> Params:
    """{"w": (vocabulary, width)}, normal with standard deviation `deviation`.

    Source of the 0.02: A. Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019, its code.
    """
    return {"w": initializers.normal(deviation)(key, (vocabulary, width), jnp.float32).astype(dtype)}


def apply(params: Params, tokens: jax.Array, *, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """The rows of the table: tokens of shape (...) give (..., width), in `dtype` or the dtype of the table.

    A token beyond the vocabulary gives NaN, rather than the vector of some other token.

    Raises:
        TypeError: the tokens are not integers.
    """
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"embedding: tokens must be integers, got {tokens.dtype}.")
    return jnp.take(params["w"], tokens, axis=0, mode="fill").astype(params["w"].dtype if dtype is None else dtype)


def logits(params: Params, x: jax.Array) -> jax.Array:
    """The product of x, (..., width), with every row of the table: (..., vocabulary) in the dtype of x.

    Source: O. Press and L. Wolf, Using the Output Embedding to Improve Language Models, 2017.
    """
    return jnp.dot(x, params["w"].astype(x.dtype).T)
