"""JAX's own tests with our vjp in the place of `jax.vjp`. See `command.py` for the command."""
