"""The names of primitives: a rule by a name that is nearly a primitive's, but no primitive's, is a slip of the pen."""

import difflib
import sys
from collections.abc import Collection

from ..jaxprs.primitives import all_primitives
from ..jaxprs.types import Primitive

OWN = __name__.partition(".")[0]
NEAR = 0.8  # of difflib's ratio: a letter too many or too few in a name of five


def require_known(primitives: Collection[str | Primitive], registered: Collection[str | Primitive]) -> None:
    """Raise ValueError for a name that is neither registered nor that of a primitive that is loaded, and near to one,
    and TypeError for what is neither a name nor a primitive.

    Called by what a user calls. The rules of this package are exempt: they serve several versions of JAX, of which each
    lacks some primitives. So is a name that is near to none: its primitive may be made later."""
    if others := [other for other in primitives if not isinstance(other, str | Primitive)]:
        raise TypeError(
            f"a rule is that of a primitive, by its name or the `Primitive` itself, and not of {others[0]!r}. "
            "jax.make_jaxpr shows which primitives a function binds."
        )
    unknown = [name for name in primitives if isinstance(name, str) and name not in registered]
    if not unknown or sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] == OWN:
        return
    known = {name for name in registered if isinstance(name, str)} | {p.name for p in all_primitives()}
    for name in unknown:
        if near := [] if name in known else _near(name, known):
            raise ValueError(
                f"no primitive is called {name!r}. Did you mean {' or '.join(map(repr, near))}? "
                "To register a rule of one that is made later, pass the `Primitive` itself."
            )


def _near(name: str, known: Collection[str]) -> list[str]:
    """Names of the same letters, since two that are exchanged are much of a short name; then others like it."""
    same_letters = sorted(other for other in known if sorted(other) == sorted(name))
    return list(dict.fromkeys([*same_letters, *difflib.get_close_matches(name, known, cutoff=NEAR)]))
