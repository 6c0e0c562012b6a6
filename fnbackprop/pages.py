"""Pages for a browser. All have one base, `page.html`, so that they look alike; each is one file that needs no other,
can be read without scripts, in dark mode and on a phone."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .extras import needed_for

if TYPE_CHECKING:
    import jinja2

BASE = Path(__file__).with_name("page.html")


def document(title: str, body: str, style: str = "") -> str:
    """A page of this title. body: its HTML, style: its own rules, both as they stand."""
    return _template(BASE).render(title=title, body=body, style=style)


def render(template: Path, **values: Any) -> str:
    """A page of its own template, which extends "page.html" and fills its blocks. The values are text, and escaped."""
    return _template(template).render(**values)


@lru_cache
def _template(path: Path) -> "jinja2.Template":
    with needed_for("a page"):
        import jinja2
    loader = jinja2.FileSystemLoader([path.parent, BASE.parent])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader)
    return environment.get_template(path.name)
