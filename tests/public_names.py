"""What users may import: the names of `fnbackprop`, and those of its public modules."""

from types import ModuleType
from typing import Any

import fnbackprop as fb


def public_names() -> dict[str, Any]:
    """By name: "grad", "testing.assert_gradients_match". Modules stand for what they hold."""
    found = {}
    for name in fb.__all__:
        value = getattr(fb, name)
        found |= {f"{name}.{part}": thing for part, thing in _of_module(value).items()} or {name: value}
    return found


def _of_module(module: Any) -> dict[str, Any]:
    """The names of a public module: its `__all__`, or else what it defines; of anything else, none."""
    if not isinstance(module, ModuleType):
        return {}
    defined = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", [name for name in defined if not name.startswith("_")])
    return {name: getattr(module, name) for name in names}
