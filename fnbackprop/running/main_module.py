"""Runs a script or a module as `python` does, with hand-written gradients in the place of `jax.grad`.

`fnbackprop run` starts this file as a program of its own. It imports nothing but the standard library until the script
imports JAX, because a script may set the environment variables that JAX reads when it is imported.
"""

import argparse
import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

PACKAGE = "fnbackprop"
DESCRIPTION = """\
Run a script with hand-written gradients in the place of jax.grad. It prints and ends as it does by python, up to the
rounding of gradients; a gradient that is found wrong does not change its exit status. Options stand before the script;
all that follows it is the script's own. A table of the places that took a gradient is written to stderr at the end."""


def main() -> None:
    options = parse(sys.argv[1:])
    own_module = sys.modules["__main__"]  # held, so that it outlives its entry in sys.modules
    session = _Session(options)
    after_import(("jax", PACKAGE), session.begin)
    try:
        begin_main = module_as_main if options.module else script_as_main
        code = begin_main(options.script, options.arguments)
        exec(code, sys.modules["__main__"].__dict__)
        _wait_for_threads()
    except SystemExit:
        session.end()
        raise
    except BaseException as error:
        _show(error)
        session.end(interrupted=not isinstance(error, Exception))
        raise  # Python sets the exit status: 1, or death by SIGINT
    session.end()
    del own_module


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{PACKAGE} run",
        description=DESCRIPTION,
        usage="%(prog)s [--compare] [--budget B] [--fuse] [-m] SCRIPT ...",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare the first gradient of each place with jax.grad's: right or wrong, time and memory; at the "
        "end, in a minute for all places together",
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="B",
        help="what loops and jitted functions may save for the backward, in bytes or as a fraction up to 1; the table "
        "says where that is not enough, and is then not kept",
    )
    parser.add_argument(
        "--fuse",
        action="store_true",
        help="run blocks where attention or cross-entropy is written out in plain JAX; the table lists where",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is a module, as in python -m")
    parser.add_argument("script", metavar="SCRIPT", help="the file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- as python does


def script_as_main(script: str, arguments: Sequence[str]) -> types.CodeType:
    """Make a script's `__main__` the current one, with its `sys.argv` and `sys.path`; returns the code to execute."""
    sys.argv = [script, *arguments]
    _set_first_path(os.path.dirname(os.path.realpath(script)))
    path = os.path.abspath(script)
    try:
        with open(script, "rb") as file:
            source = file.read()
    except OSError as error:  # in python's words
        _refuse(f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}", 2)
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    _set_main(__file__=path, __loader__=loader, __cached__=None)
    return compile(source, path, "exec", dont_inherit=True)


def module_as_main(name: str, arguments: Sequence[str]) -> types.CodeType:
    """As `script_as_main`, for a module that is found by its name."""
    sys.argv = ["-m", *arguments]
    _set_first_path(os.getcwd())
    spec = _find_module(name)
    sys.argv[0] = spec.origin
    code = spec.loader.get_code(spec.name)
    _set_main(
        __file__=spec.origin, __loader__=spec.loader, __cached__=spec.cached, __spec__=spec, __package__=spec.parent
    )
    return code


def _set_first_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _set_main(**names: Any) -> None:
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, **names)
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    sys.modules["__main__"] = module


def _refuse(message: str, status: int) -> NoReturn:
    print(f"{PACKAGE} run: {message}", file=sys.stderr)
    os._exit(status)


def _find_module(name: str) -> Any:
    """The spec of a module, of a package's `__main__`."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the package itself imports something that is missing
        spec = None
    if spec is None or spec.loader is None:
        _refuse(f"No module named {name}", 1)
    return spec


def _wait_for_threads() -> None:
    """Python ends when the script's threads have ended."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()


def _show(error: BaseException) -> None:
    """Print the script's traceback, without the frames of this file, and let Python print no other."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    error.__traceback__ = traceback
    sys.excepthook(type(error), error, traceback)
    sys.excepthook = lambda *_: None


# ---------------------------------------------------------------- once the script imports JAX


class _Session:
    """The session of `session.py`, from when the script has imported JAX."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.session: Any = None

    def begin(self) -> None:
        try:
            _load_package()
            from fnbackprop.running.session import Session

            options = {"fuse": True} if self.options.fuse else {}
            options |= {} if self.options.budget is None else {"budget": self.options.budget}
            self.session = Session(self.options.compare, options)
        except ImportError as error:
            print(f"{PACKAGE} run: jax.grad is left in its place: {error}", file=sys.stderr)

    def end(self, interrupted: bool = False) -> None:
        """Write the table; whatever goes wrong here, the script's status stays."""
        if self.session is None:
            print(f"{PACKAGE} run: no gradient was taken: JAX was not in use", file=sys.stderr)
            return
        try:
            self.session.end(interrupted)
        except (Exception, KeyboardInterrupt) as error:
            print(f"{PACKAGE} run: no table: {type(error).__name__}: {error}", file=sys.stderr)


def _load_package() -> None:
    """Import this package from where this file lies, whatever the script's `sys.path`."""
    if PACKAGE not in sys.modules:
        folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        spec = importlib.util.spec_from_file_location(
            PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        sys.modules[PACKAGE] = package = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(package)  # type: ignore[union-attr]


def after_import(names: tuple[str, ...], action: Callable[[], None]) -> None:
    """Call `action` once the first of these modules has been imported and no other of them is half imported."""
    sys.meta_path.insert(0, _Watcher(names, action))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing itself; wraps the loader of the modules that it watches."""

    def __init__(self, names: tuple[str, ...], action: Callable[[], None]):
        self.names, self.action = names, action

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname not in self.names:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._call_after(spec.loader, fullname)
        return spec

    def _call_after(self, loader: Any, name: str) -> None:
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            if self in sys.meta_path and not any(map(_is_half_imported, set(self.names) - {name})):
                sys.meta_path.remove(self)
                self.action()

        loader.exec_module = exec_module


def _is_half_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)


if __name__ == "__main__":
    main()
