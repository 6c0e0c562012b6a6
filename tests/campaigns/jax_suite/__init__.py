"""Tests of JAX (`command.py`) and of its libraries (`library.py`) with our vjp in the place of `jax.vjp`."""
