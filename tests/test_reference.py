"""The reference: each public name says what goes in, what comes out, what is raised, and shows an example that runs.

A name that is new and undocumented fails here, with what it lacks.
"""

import doctest
import enum
import inspect
import re
import types
import typing

import pytest

from fnbackprop import losses

from .public_names import public_names

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example", "Source")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# A number says of what it is one: one of these words stands in its description.
QUANTITIES = """bytes steps? seconds numbers? weight count many often length part fraction multiple rate norm seed
    position positions argument arguments index decay factor width batch batches microbatches updates directions carries
    checkpoints""".split()
SILENT = ("MissingExtra", "UntestedVersionWarning")  # what their examples do is to be quiet, where all is well
NAMES = public_names()
FUNCTIONS = {name: found for name, found in NAMES.items() if not isinstance(found, type)}
CLASSES = {name: found for name, found in NAMES.items() if isinstance(found, type)}


def sections(documented: typing.Any) -> dict[str, str]:
    """The sections of a docstring, each as it is indented: "" is what stands before the first."""
    text = inspect.getdoc(documented) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):[ ]*\n?", text, flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def described(section: str) -> dict[str, str]:
    """The entries "name: description" of a section, "a, b: ..." as two, by name without stars."""
    section = inspect.cleandoc(section)
    parts = re.split(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*):\s", section, flags=re.MULTILINE)
    entries = zip(parts[1::2], parts[2::2], strict=True)
    return {name.lstrip("*"): text.strip() for names, text in entries for name in names.split(", ")}


def undescribed(parameters: dict[str, inspect.Parameter], section: str) -> list[str]:
    """What a section lacks: a parameter, its description, or of what a number is one."""
    found, lacks = described(section), []
    for name, parameter in parameters.items():
        text = found.get(name, "")
        if len(text.split()) < 2 and not text.startswith("("):  # a shape alone may be enough
            lacks.append(f"a description of {name}")
        elif is_number(parameter.annotation) and not re.search(rf"\b({'|'.join(QUANTITIES)})\b", text):
            lacks.append(f"of what {name} is the number: {text!r}")
    return [*lacks, *(f"{name} is no parameter" for name in found.keys() - parameters.keys())]


def is_number(annotation: typing.Any) -> bool:
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    options = typing.get_args(annotation) if is_union else (annotation,)
    return any(option in (int, float) for option in options) and bool not in options


def parameters_of(documented: typing.Any) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(documented).parameters.items() if name != "self"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    found, function = sections(FUNCTIONS[name]), FUNCTIONS[name]
    lacks = undescribed(parameters_of(function), found.get("Args", ""))
    lacks += [section for section in ("Returns", "Raises", "Example") if len(found.get(section, "").split()) < 1]
    assert not lacks, f"fb.{name} lacks: {'; '.join(lacks)}"


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name):
    """Each field has a description, and of an error each attribute that it sets."""
    cls = CLASSES[name]
    found = sections(cls)
    entries = found.get("Attributes", "") + found.get("Args", "")
    fields = getattr(cls, "__dataclass_fields__", None)
    if fields is not None:
        lacks = undescribed(parameters_of(cls), entries)
    elif issubclass(cls, enum.Enum):
        lacks = [member for member in cls.__members__ if member not in found[""]]
    else:
        set_in_init = re.findall(r"self\.([a-z]\w*)(?:, self\.([a-z]\w*))* =|self\.([a-z]\w*): ", _init_source(cls))
        lacks = [n for group in set_in_init for n in group if n and n not in described(entries)]
    lacks += [] if found.get("Example") else ["Example"]
    assert not lacks, f"fb.{name} lacks: {'; '.join(lacks)}"


def _init_source(cls: type) -> str:
    return inspect.getsource(cls.__init__) if "__init__" in vars(cls) else ""


@pytest.mark.parametrize("name", [name for name in NAMES if name != "testing.GradientMismatch"])
def test_examples_run(name):
    """Each has one that shows something. `tests/test_readme.py` runs those of all other names."""
    (test,) = doctest.DocTestFinder(recurse=False).find(NAMES[name], name, globs={})
    assert any(example.want for example in test.examples) or name in SILENT, f"fb.{name} has no example that runs"
    results = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert results.attempted == len(test.examples) > 0 and results.failed == 0


def test_the_parser_finds_what_is_missing():
    def undocumented(a: int, b: int, c):
        """Text.

        Args:
            a: the number of steps.
            b: it.
        """

    lacks = undescribed(parameters_of(undocumented), sections(undocumented)["Args"])
    assert lacks == ["a description of b", "a description of c"]
    assert undescribed(parameters_of(lambda a: 0), "  a: one of them\n  z: another one") == ["z is no parameter"]

    def unitless(a: float | None):
        """Args:
        a: how it is done.
        """

    assert undescribed(parameters_of(unitless), sections(unitless)["Args"]) == [
        "of what a is the number: 'how it is done.'"
    ]


LOSSES = [name for name, found in vars(losses).items() if getattr(found, "__module__", "") == losses.__name__]


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("_")])
def test_losses(name):
    function = getattr(losses, name)
    lacks = set(parameters_of(function)) - described(sections(function).get("Args", "")).keys()
    assert not lacks, f"losses.{name} does not describe {', '.join(lacks)}"
