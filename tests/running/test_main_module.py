"""`fnbackprop run` against `python`: the same output, exit status and traceback, whatever the script does."""

import re

import pytest

from .running import both_ways, check_equal, start, start_ours


def test_the_script_sees_what_python_shows_it(tmp_path):
    source = """
        '''A docstring.'''
        import os, sys
        os.environ["JAX_ENABLE_X64"] = "1"  # read when JAX is imported
        import jax
        print(__name__, __file__, sys.argv, sys.path[0], __spec__, __package__, __doc__, sorted(globals()))
        print(sys.modules["__main__"].__dict__ is globals(), jax.config.jax_enable_x64)
        if __name__ == "__main__":
            print(jax.grad(lambda x: x**3)(2.0).dtype)
    """
    arguments = ("--compare", "-m", "--own=1", "-h")
    plain, ours = both_ways(tmp_path, source, *arguments, options=("--budget", "0.3"))
    assert "float64" in ours.stdout and "script.py:9" in ours.table


@pytest.mark.parametrize(
    "last",
    [
        "sys.exit(7)",
        "sys.exit('a message')",
        "sys.exit()",
        "1 / 0",
        "raise KeyboardInterrupt",
        "def f(:",
        "import nowhere",
    ],
)
def test_how_a_script_ends(tmp_path, last):
    plain, ours = both_ways(tmp_path, f"import atexit, sys\natexit.register(print, 'bye')\nprint(1)\n{last}\n")
    after = re.sub(r"^fnbackprop run: .*\n", "", ours.table)  # Python prints the message of sys.exit at the very end
    assert ours.stderr + after == plain.stderr


def test_an_error_in_a_gradient_has_the_scripts_traceback(tmp_path):
    source = """
        import jax
        def loss(x):
            print("once")
            raise ValueError("my own")
        jax.grad(loss)(1.0)
    """
    plain, ours = both_ways(tmp_path, source)
    assert ours.stderr == plain.stderr


def test_a_module(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("print('the package')")
    (package / "other.py").write_text("VALUE = 3")
    (package / "__main__.py").write_text(
        "import sys\nfrom .other import VALUE\nprint(VALUE, __name__, __package__, __file__, __spec__.name, sys.argv,"
        " sys.path[0])"
    )
    for name in ("package", "package.__main__"):
        plain = start(tmp_path, "-m", name, "-m", "x")
        check_equal(plain, start_ours(tmp_path, "-m", name, "-m", "x"))
        assert plain.stdout


@pytest.mark.parametrize("command", [("nowhere.py",), ("-m", "nowhere"), ("-m", "nowhere.inside")])
def test_a_script_that_is_not_there(tmp_path, command):
    plain, ours = start(tmp_path, *command), start_ours(tmp_path, *command)
    check_equal(plain, ours)
    assert ours.status in (1, 2)
    said = ours.table.removeprefix("fnbackprop run: ").strip()
    assert plain.stderr.strip().endswith(said) or "nowhere.inside" in said


def test_threads_end_before_the_table(tmp_path):
    source = """
        import threading, time
        import jax
        def work():
            time.sleep(0.5)
            print(jax.grad(lambda x: x**2)(3.0), flush=True)
        threading.Thread(target=work).start()
    """
    plain, ours = both_ways(tmp_path, source)
    assert "script.py:6" in ours.table


def test_usage(tmp_path):
    assert start_ours(tmp_path).status == 2
    told = start_ours(tmp_path, "--help")
    assert told.status == 0 and "--compare" in told.stdout and "--budget" in told.stdout


def test_blocks_run_in_a_script_and_are_listed(tmp_path):
    source = """
        import jax, jax.numpy as jnp
        def loss(x):
            return jnp.sum((jax.nn.softmax(x @ x.T) @ x)[0] ** 2)
        print(jax.jit(jax.grad(loss))(jnp.ones((4, 2))).round(3))
    """
    plain, ours = both_ways(tmp_path, source, options=["--fuse"])
    assert "fuse: attention at" in ours.table and "script.py:4" in ours.table and "saves" in ours.table
