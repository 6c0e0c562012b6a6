"""The one place that knows what a jaxpr is, and in what the supported JAX versions differ."""
