"""A printed trace: the verdict, the lines that are not finite most often, and a table with a row for each line."""

import jax.numpy as jnp
import pytest

from fnbackprop.tracing.pipeline import trace

from ..cases import X, where_sqrt
from ..helpers import line_of


def test_verdict_worst_lines_and_table():
    found = trace(where_sqrt, X)
    printed, line = str(found).splitlines(), line_of(where_sqrt)
    assert printed[0].startswith("where_sqrt: 0·inf: a cotangent became NaN at sqrt")
    worst = printed.index("not finite most often:")
    assert printed[worst + 1].startswith(f"  cases.py:{line}:11 (where_sqrt): 1 array is not finite")
    row = next(text for text in printed[worst + 2 :] if text.startswith(f"cases.py:{line}:11"))
    assert "!1" in row and "sqrt" in row


def test_a_table_of_some_lines():
    found, line = trace(where_sqrt, X), line_of(where_sqrt)
    assert [text.split()[0] for text in found.table(lines=f"cases.py:{line}").splitlines()] == [
        "line",
        f"cases.py:{line}:11",
    ]
    assert len(found.table(lines=f"cases.py:{line}-{line + 1}").splitlines()) > 3
    assert found.table("elsewhere.py:3") == "no equation stands at elsewhere.py:3; they are of cases.py"
    with pytest.raises(ValueError, match="lines must be like"):
        found.table(lines=":")


def test_of_a_healthy_function():
    printed, walked = (str(trace(lambda x: jnp.sum(x**2), jnp.ones(3), detailed=d)) for d in (False, True))
    rest = ". Value 3; gradients of 1 leaves from 2 to 2 (rms)."
    assert walked.startswith(f"<lambda>: all finite{rest}")
    compiled = "as one compiled program (detailed=True, --detailed, looks at each equation by itself)"
    assert printed.startswith(f"<lambda>: all finite {compiled}{rest}")
    assert "largest cotangents:" in printed
