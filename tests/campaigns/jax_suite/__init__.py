"""JAX's own tests with our vjp in the place of `jax.vjp`. See `__main__.py` for the command."""
