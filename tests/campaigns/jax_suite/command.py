"""JAX's own tests, with our vjp in the place of `jax.vjp`; those that fail, for reference, without.

    python -m tests.campaigns jax_suite --tests ../jax/tests                         # every file that takes gradients
    python -m tests.campaigns jax_suite --tests ../jax/tests lax_autodiff nn         # these files

It needs a checkout of JAX at the tag of the installed version. A test that fails with ours is run again without: it
counts if it passes then, and is listed, unless `exceptions.py` says why it must fail: it demands that JAX refuses, or a
wrong value of JAX's, or a private object. An exception that passes is listed too.
"""

import argparse
import pathlib

import jax

from .running import Suite, add_options, compare_files

# The files of JAX's tests that take gradients.
FILES = """lax_autodiff lax_control_flow api custom_api custom_linear_solve custom_root ode nn linalg shard_map pjit
    mutable_array state sparse sparse_bcoo_bcsr sparsify lax_scipy lax_scipy_sparse lax_scipy_special_functions
    scipy_optimize scipy_signal scipy_ndimage scipy_interpolate scipy_stats fft image random_lax batching
    experimental_rnn lax_numpy lax_numpy_indexing lax_numpy_reducers lax_numpy_operators lax_numpy_einsum lax
    lax_vmap lax_vmap_op hijax checkify jet eigh svd qdwh memories name_stack debug_nans cholesky_update
    ann custom_partitioning python_callback optimizers stax linalg_sharding core debugging_primitives dtypes errors
    export fused generated_fun jaxpr_effects key_reuse lax_numpy_hijax metadata multi_device pmap random
    scheduling_groups shape_poly shard_alike stateful_rng string_array x64_context xla_metadata""".split()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns jax_suite", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="without _test.py; default: all that differentiate")
    parser.add_argument("--tests", type=pathlib.Path, required=True, help="the folder tests/ of a checkout of JAX")
    add_options(parser)
    options = parser.parse_args(arguments)
    tests = options.tests.resolve()
    if not (tests / "lax_autodiff_test.py").exists():
        parser.error(f"{tests} is not the tests folder of a checkout of JAX (no lax_autodiff_test.py)")
    print(f"JAX {jax.__version__}")
    files = [file.removesuffix("_test.py") for file in options.files or FILES]
    suite = Suite(tests, (tests,), options.limit, options.select)
    return compare_files(suite, [(file, f"{file}_test.py") for file in files], options.verbose)
