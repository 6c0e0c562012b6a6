"""`jax.nn` and `jax.image`."""

import jax
import pytest
from jax import nn

from ..rules.checking import TOLERANCE
from .agreement import check_agreement, draw

X = draw(2, 6)
ACTIVATIONS = {
    name: (getattr(nn, name), (X,))
    for name in (
        "relu relu6 sigmoid softplus sparse_plus silu mish soft_sign log_sigmoid leaky_relu hard_sigmoid hard_swish "
        "hard_tanh elu celu selu gelu glu squareplus softmax log_softmax logsumexp standardize identity"
    ).split()
}
QUERY, KEY, VALUE = draw(2, 3, 2, 4), draw(2, 5, 2, 4), draw(2, 5, 2, 4)[::-1].copy()
OTHERS = {
    "gelu exact": (lambda x: nn.gelu(x, approximate=False), (X,)),
    "logsumexp weighted": (lambda x, b: nn.logsumexp(x, axis=1, b=b), (X, draw(2, 6, low=0.1))),
    "softmax where": (lambda x: nn.softmax(x, axis=1, where=X > -1), (X,)),
}
ATTENTION = {
    "dot_product_attention": (nn.dot_product_attention, (QUERY, KEY, VALUE)),
    "dot_product_attention causal": (
        lambda q, k, v: nn.dot_product_attention(q, k, v, is_causal=True),
        (QUERY, KEY, VALUE),
    ),
    "dot_product_attention grouped": (nn.dot_product_attention, (QUERY, KEY[:, :, :1], VALUE[:, :, :1])),
}
IMAGE = draw(5, 4, 2)
RESIZES = {
    f"resize {method} {shape}": (lambda x, m=method, s=shape: jax.image.resize(x, s, m), (IMAGE,))
    for method in ("nearest", "linear", "cubic", "lanczos3", "lanczos5")
    for shape in ((3, 7, 2), (8, 2, 2))
}
RESIZES["scale_and_translate"] = (
    lambda x, scale, shift: jax.image.scale_and_translate(x, (6, 5, 2), (0, 1), scale, shift, "linear"),
    (IMAGE, draw(2, low=0.8, high=1.7), draw(2, low=0.1, high=0.6)),
)


@pytest.mark.parametrize("programs", [ACTIVATIONS, OTHERS, RESIZES], ids=["activations", "others", "image"])
def test_agree(programs):
    check_agreement(programs)


def test_attention():
    """`dot_product_attention` takes its softmax in float32, whatever the operands: float32's tolerance."""
    check_agreement(ATTENTION, TOLERANCE["float32"])
