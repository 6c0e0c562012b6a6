"""Differences from the revision before the refactoring (375f25a) that are wanted, each with its reason.

A row is a pattern of program names, as `python -m tests.campaigns jaxprs` prints them. A row that matches no difference
is reported, to be taken out.
"""

INTENDED: list[tuple[str, str]] = []
