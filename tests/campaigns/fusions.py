"""`python -m tests.campaigns fusions`: attention as families of models write it, and what `fb.fusions` says of each.

Of each spelling: the block that takes its place and the bytes of scores or logits that are then never whole in memory,
or the reason why none does. The exit status is 1 if one is not as it is expected.

    python -m tests.campaigns fusions
    python -m tests.campaigns fusions --only LLaMA
"""

import argparse
import re
from collections.abc import Sequence

import jax

import fnbackprop as fb
from fnbackprop.blocks.fusing.rewriting import Fusion

from ..blocks.fusing.families import MODELS, PASSED_OVER, SPELLINGS, Spelling


def said_of(spelling: Spelling) -> list[Fusion]:
    """As users have it: these programs are theirs."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(True):
        return fb.fusions(spelling.function, *spelling.operands)


def is_as_expected(spelling: Spelling, found: Sequence[Fusion]) -> bool:
    if spelling.reason is PASSED_OVER:
        return not any(fusion.taken for fusion in found)
    if len(found) != spelling.count:
        return False
    return all(f.taken is (spelling.reason is None) and re.search(spelling.reason or "", f.reason) for f in found)


def row(spelling: Spelling, found: Sequence[Fusion]) -> str:
    """What is said, without the folder of the file."""
    taken = [fusion for fusion in found if fusion.taken]
    if taken:
        saved = sum(fusion.saves for fusion in taken) / 1024
        what = f"{taken[0].block}{f' x {len(taken)}' if len(taken) > 1 else ''}, {saved:.3g} KiB"
    else:
        what = "; ".join(dict.fromkeys(f"not taken: {fusion.reason}" for fusion in found)) or "passed over"
    return re.sub(r"\S*/(\w+\.py)", r"\1", what)


def table(only: str = "") -> tuple[list[str], bool]:
    """The lines, and whether all is as expected."""
    lines, right, fused, count = [], True, 0, 0
    for family, spellings in SPELLINGS.items():
        if only.lower() not in family.lower():
            continue
        lines.append(family)
        for spelling in spellings:
            found = said_of(spelling)
            expected = is_as_expected(spelling, found)
            right, count, fused = right and expected, count + 1, fused + any(fusion.taken for fusion in found)
            mark = "" if expected else "   NOT AS EXPECTED"
            lines.append(f"  {spelling.function.__name__:44} {row(spelling, found)}{mark}")
    families = sum(family in MODELS for family in SPELLINGS if only.lower() in family.lower())
    lines.append(f"{count} spellings, {fused} of them fused; {families} families of models")
    return lines, right


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns fusions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="a word in the family's name")
    only = parser.parse_args(argv).only
    if not any(only.lower() in family.lower() for family in SPELLINGS):
        parser.error(f"no family has {only!r} in its name; they are: {', '.join(SPELLINGS)}")
    lines, right = table(only)
    print("\n".join(lines))
    return 0 if right else 1
