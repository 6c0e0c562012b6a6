"""The public face is what `public_face.txt` says: names, parameters, defaults.

python -m tests.test_public_face > tests/public_face.txt      # after a change on purpose, for the changelog too
"""

import enum
import inspect
from pathlib import Path

from .public_names import public_names

SNAPSHOT = Path(__file__).with_name("public_face.txt")


def face() -> list[str]:
    """A line for each public name: how it is called, without types, or what it holds."""
    return [_line(name, found) for name, found in public_names().items()]


def _line(name: str, found) -> str:
    if isinstance(found, type) and issubclass(found, enum.Enum):
        return f"{name}: {', '.join(found.__members__)}"
    if isinstance(found, type) and issubclass(found, Exception):
        return f"{name}({', '.join(base.__name__ for base in found.__bases__)})"
    untyped = [p.replace(annotation=p.empty) for p in inspect.signature(found).parameters.values()]
    if isinstance(found, type) and not hasattr(found, "__dataclass_fields__"):
        return f"{name}: {', '.join(n for n in sorted(vars(found)) if not n.startswith('_'))}"  # made by a function
    return f"{name}{inspect.Signature(untyped)}"


def test_the_public_face_is_as_it_was():
    """A name or parameter that goes needs a deprecation and a line in the changelog; a new one the line alone."""
    was, now = SNAPSHOT.read_text().splitlines(), face()
    gone, new = [line for line in was if line not in now], [line for line in now if line not in was]
    assert (gone, new) == ([], []), "on purpose? python -m tests.test_public_face > tests/public_face.txt"


if __name__ == "__main__":
    print("\n".join(face()))
