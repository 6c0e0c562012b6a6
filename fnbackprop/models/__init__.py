"""Models as pure functions: every module here has `init(key, ...) -> params` and `apply(params, x, ...) -> y`.

- `params` is a plain pytree of dicts and lists; its leaves are named "w" and "b" in a linear or a convolution,
  "scale" and "bias" in a norm, so a path such as "blocks/3/qkv/w" says what a leaf is.
- The random draws are float32 and are then cast to `dtype`: one key gives one network, in every dtype.
- `apply` computes in the dtype of `x` and casts the parameters to it, so float32 parameters and a bfloat16 input
  are mixed precision, with the gradients in float32.
- Dropout is on if `apply` is given both a rate and a key, and is the same for the same key.
- `batch_norm` has a state beside its parameters: `init(...) -> (params, state)`, `apply(params, state, x, ...) -> (y,
  state)`, as `Experiment(has_state=True)` has it.
- Axes are batch first, features last: (batch, features), (batch, time, features), (batch, height, width, channels).
"""

from fnbackprop.models import (
    batch_norm,
    convnet,
    dropout,
    embedding,
    gru,
    layer_norm,
    linear,
    lstm,
    mlp,
    rnn,
    transformer,
)

__all__ = [
    "batch_norm",
    "convnet",
    "dropout",
    "embedding",
    "gru",
    "layer_norm",
    "linear",
    "lstm",
    "mlp",
    "rnn",
    "transformer",
]
