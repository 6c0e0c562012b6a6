"""Mutable references: rewritten into pure operations before a function is planned, see `backprop/references.py`."""

from ..backprop import jaxprs
from ..backprop.registry import structured_rule


@structured_rule("new_ref", "empty_ref", "freeze", "free_ref", "get", "swap", "addupdate", "run_state")
def rewritten_before_planning(engine, equation, active, wanted):
    """No equation of these is left in a jaxpr that is planned, but for those on references from outside."""
    raise NotImplementedError(
        f"a gradient flows through {equation.primitive.name} of a mutable reference from outside the differentiated "
        f"function, at {jaxprs.source_line(equation)}."
    )
