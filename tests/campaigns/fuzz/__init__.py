"""A fuzzer of the rules: random programs, `fb.vjp` against `jax.vjp` in float64. See `command.py`."""
