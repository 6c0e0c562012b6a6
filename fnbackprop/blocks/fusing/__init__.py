"""Fusing: what a user wrote out in plain JAX is found in the traced program, and runs as a block.

The structure of the jaxpr decides, never its numbers: equations are matched backwards from the last one.
"""
