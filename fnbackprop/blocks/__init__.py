"""Blocks: forward and backward of several equations at once, derived by hand and written side by side."""
