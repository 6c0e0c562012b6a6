"""Comparing: the manual gradient beside the automatic one and beside differences of the function itself."""
