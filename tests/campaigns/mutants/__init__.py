"""Mutants: every rule of the registry changed automatically, to measure what a gradient checker catches."""
