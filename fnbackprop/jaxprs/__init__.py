"""The one place that knows what a jaxpr is, and in what the supported JAX versions differ."""

from .tested_versions import warn_of_untested_jax

warn_of_untested_jax()  # before the first import that a new JAX could break
