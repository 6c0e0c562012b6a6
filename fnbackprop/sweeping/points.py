"""The points of a sweep: all combinations of the values of its options, or some drawn at random."""

import itertools
import math
import random
from collections.abc import Mapping, Sequence

Point = dict[str, str]
"""The value of each option that is swept, as it is typed."""


class SweepError(ValueError):
    """An option of a sweep makes no sense; the message says which."""


def split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(the options that are swept, with their values or range as typed; the arguments that every run gets).

    An option is swept if it has one value, and a comma or a colon between numbers in it.

    >>> split_arguments("--width 64,128 --rate 1e-4:1e-2 --steps 20 --mesh data=2,model=2".split())
    ({'width': '64,128', 'rate': '1e-4:1e-2'}, ['--steps', '20', '--mesh', 'data=2,model=2'])
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    swept, rest = {}, []
    for group in _groups(words):
        option, *values = group
        if option.startswith("--") and len(values) == 1 and "=" not in values[0] and _is_swept(values[0]):
            swept[option.removeprefix("--")] = values[0]
        else:
            rest += group
    return swept, rest


def _groups(words: Sequence[str]) -> list[list[str]]:
    """Each option with the words after it that are no option."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def _is_swept(value: str) -> bool:
    return "," in value or _range_of(value) is not None


def _range_of(value: str) -> tuple[float, float] | None:
    low, colon, high = value.partition(":")
    try:
        return (float(low), float(high)) if colon else None
    except ValueError:
        return None


def grid(swept: Mapping[str, str]) -> list[Point]:
    """All combinations; the last option changes first.

    >>> grid({"rate": "0.1,0.2", "width": "8,16"})[1]
    {'rate': '0.1', 'width': '16'}
    """
    for option, value in swept.items():
        if _range_of(value) is not None:
            raise SweepError(f"--{option} {value} is a range: say how many points to draw, --random 20 for instance.")
    values = [value.split(",") for value in swept.values()]
    return [dict(zip(swept, found, strict=True)) for found in itertools.product(*values)]


def drawn(swept: Mapping[str, str], count: int, seed: int) -> list[Point]:
    """Points drawn at random, a function of the seed: with more of them, the first stay the same.

    Of a list, one of its values; of a range LOW:HIGH, a number between, a whole one if both are, whose logarithm is
    uniform if both are above zero.

    >>> swept = {"width": "8:64", "act": "relu,gelu"}
    >>> drawn(swept, 2, seed=0) == drawn(swept, 3, seed=0)[:2]
    True
    """
    source = random.Random(seed)
    return [{option: _draw(value, source) for option, value in swept.items()} for _ in range(count)]


def _draw(value: str, source: random.Random) -> str:
    limits = _range_of(value)
    if limits is None:
        return source.choice(value.split(","))
    low, high = limits
    if not low < high:
        raise SweepError(f"a range is LOW:HIGH, not {value}.")
    uniform = source.random()
    number = low * math.exp(uniform * math.log(high / low)) if low > 0 else low + uniform * (high - low)
    whole = all(part.lstrip("+-").isdecimal() for part in value.split(":"))
    return str(round(number)) if whole else f"{number:.4g}"


def label(point: Point) -> str:
    """The name of a point's folder."""
    return ",".join(f"{option}={value}" for option, value in point.items()).replace("/", "_") or "run"
