"""A jaxpr evaluated in numpy, equation by equation, so that nothing is compiled. See `evaluate.py`."""
