"""The table of the places, at most 80 columns wide."""

import math
import textwrap
from collections.abc import Sequence

import jax

from ..columns import aligned
from ..comparing.results import Verdict
from .measuring import Measured
from .places import Place, short

WIDTH = 80
TEXT = ("place", "verdict", "by")  # columns of words, not of numbers
BY_JAX = "jax.grad"  # in the place of a verdict


def text(places: Sequence[Place], measured: dict[str, Measured], seconds: float, fuse: bool = False) -> str:
    """The table and what it cannot hold; `measured` by the place's line, empty where nothing was compared.
    fuse: whether blocks were to run."""
    if not places:
        return "no gradient was taken"
    ours = sum(not place.fallback and place.raised < place.calls for place in places)
    head = f"{_count(ours, 'place')} of {len(places)} by hand-written gradients"
    titles, rows = _columns(places, measured)
    lines = [head, *_aligned(titles, rows), *_remarks(places, measured), *(_fusions(places) if fuse else [])]
    lines += _measurement(places, measured, seconds)
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _columns(places: Sequence[Place], measured: dict[str, Measured]) -> tuple[list[str], list[list[str]]]:
    titles = ["place", "calls"]
    rows = [[short(place.line), _calls(place)] for place in places]
    if measured:
        titles += ["verdict", "time", "memory", "ms by jax.grad"]
        for row, place in zip(rows, places, strict=True):
            one = measured[place.line]
            row += [_verdict(place, one), _number(one.time), _number(one.memory), _number(1e3 * one.seconds)]
    else:
        titles.append("by")
        for row, place in zip(rows, places, strict=True):
            row.append(BY_JAX if place.fallback else "hand" if place.raised < place.calls else "-")
    return titles, rows


def _calls(place: Place) -> str:
    """How many; "jit" where they were traced and then run without Python."""
    return f"{place.calls} jit" if place.traced == place.calls else str(place.calls)


def _verdict(place: Place, one: Measured) -> str:
    if place.fallback:
        return BY_JAX
    return "-" if one.verdict is Verdict.SKIPPED else str(one.verdict)


def _number(x: float) -> str:
    if math.isnan(x):
        return "-"
    return f"{x:.2f}" if x < 100 else f"{x:.0f}"


def _aligned(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Columns with two spaces between them: text to the left, numbers to the right; the first one cut to fit."""
    table = [titles, *rows]
    others = [max(map(len, column)) + 2 for column in list(zip(*table, strict=True))[1:]]
    first = WIDTH - sum(others)
    numbers = {i for i, title in enumerate(titles) if title not in TEXT}
    return aligned([[_cut(row[0], first), *row[1:]] for row in table], right=numbers)


def _cut(cell: str, width: int) -> str:
    """The end of a cell that is too long: of a path, the file and the line."""
    return cell if len(cell) <= width else ".." + cell[len(cell) - width + 2 :]


def _fusions(places: Sequence[Place]) -> list[str]:
    """What ran as a block, and what did not and why; the place, where one does what another does not."""
    found = dict.fromkeys((fusion, place.line) for place in places for fusion in place.fusions)
    said: dict[tuple[str, str], set[str]] = {}
    for fusion, _ in found:
        said.setdefault((fusion.block, fusion.where), set()).add(str(fusion))
    differs = {key for key, texts in said.items() if len(texts) > 1}
    lines = list(
        dict.fromkeys(
            f"{fusion} (gradient at {short(line)})" if (fusion.block, fusion.where) in differs else str(fusion)
            for fusion, line in found
        )
    )
    lines = lines or ["neither attention nor linear + cross-entropy is written out in these places"]
    return [textwrap.fill(f"fuse: {line}", WIDTH, subsequent_indent="  ") for line in lines]


def _remarks(places: Sequence[Place], measured: dict[str, Measured]) -> list[str]:
    """What each verdict leaves to say, a paragraph each; a wrong gradient's whole comparison."""
    lines = []
    for place in places:
        one = measured.get(place.line)
        reason = one.reason if one is not None else place.fallback and f"by jax.grad: {place.fallback}"
        if reason:
            said = reason if place.fallback or one.verdict is not Verdict.SKIPPED else f"not compared: {reason}"
            lines.append(textwrap.fill(f"{short(place.line)} {said}", WIDTH, subsequent_indent="  "))
        if place.over_budget:
            said = f"{short(place.line)} by hand, but not within the budget: {place.over_budget}"
            lines.append(textwrap.fill(said, WIDTH, subsequent_indent="  "))
        if one is not None and one.details:
            lines += [f"{short(place.line)}:", one.details]
    return lines


def _measurement(places: Sequence[Place], measured: dict[str, Measured], seconds: float) -> list[str]:
    """What the numbers are."""
    lines = []
    if any(not math.isnan(one.time) for one in measured.values()):
        lines += [
            "time, memory: of value and gradient, ours over jax.grad's; below 1 is better.",
            "Measured: the first call of each place, compiled, median of runs in turns;",
            f"memory is temporary; on {_device()}, in {seconds:.0f} s.",
        ]
    if any(place.traced == place.calls for place in places):
        lines.append("jit: so often traced, then run compiled.")
    return lines


def _device() -> str:
    device = jax.devices()[0]
    kind = device.device_kind
    return f"{len(jax.devices())} x {kind}" if len(jax.devices()) > 1 else kind
