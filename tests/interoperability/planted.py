"""Programs in the ways of other people's libraries, each with a derivative rule of its author's, right or wrong.

Each mistake is of another kind, and each rule is given in the library's own way where it has one. `build(right)` gives
the loss, its arguments, of which the first is differentiated, and the rule in which the mistake is made. The comment
HERE is on the line of the program that calls the function with the rule.
"""

from collections.abc import Callable
from typing import NamedTuple


class Planted(NamedTuple):
    """A program of a library: how to build it, and what is wrong in its rule."""

    build: Callable[[bool], tuple[Callable, tuple, Callable]]
    mistake: str


PROGRAMS: dict[str, Planted] = {}


def program(library: str, mistake: str) -> Callable:
    def register(build):
        PROGRAMS[library] = Planted(build, mistake)
        return build

    return register
