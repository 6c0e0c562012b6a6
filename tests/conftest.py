"""Strict mode for every test: dtype promotion is explicit, rank promotion raises, warnings are errors."""

import gc
import os
from importlib.metadata import version

# Most of the time goes to compiling thousands of tiny programs: ask XLA for quick code rather than fast code.
QUICK = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"  # later versions do not know it
    QUICK += " --xla_cpu_parallel_codegen_split_count=1"  # one LLVM module a program; no gain in later versions
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"

import jax  # noqa: E402  (reads XLA_FLAGS)
import pytest  # noqa: E402

from fnbackprop.backprop import registry  # noqa: E402

gc.set_threshold(
    100_000, 50, 100
)  # traced programs are millions of small objects: at Python's own pace, 5 % of the time
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Run the test in 64-bit mode."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def plant():
    """A function that exchanges a primitive's rules (for none, unless an entry is given) until the test ends.

    It returns the entry that stood there.
    """
    before = registry._entries
    registry._entries = dict(before)

    def exchange(primitive, entry=None):
        old = registry.registered().get(primitive)
        registry._put(primitive, entry or registry.Entry())
        return old

    yield exchange
    registry._entries = before
    registry._generation += 1
