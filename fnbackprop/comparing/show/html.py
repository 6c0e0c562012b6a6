"""Results as one HTML page that needs no other file, and as the fragment that a notebook shows: rich's own export."""

import io
import sys

from rich.console import Console

from ...pages import document
from ..results import Results
from .text import BAR, Extent, renderable

COLUMNS = ("norm", "error", BAR, "allowed", "noise", "ratio", "cos", "median ulps", "largest ulps", "<= at 95 %")
PAGE = Extent(width=150, rows=sys.maxsize, findings=sys.maxsize, columns=COLUMNS)
STYLE = "font:13px/1.45 ui-monospace,Menlo,Consolas,monospace;overflow-x:auto;white-space:pre;margin:0"
FRAGMENT = f'<pre style="{STYLE}">{{code}}</pre>'


def page(results: Results) -> str:
    """The whole document."""
    return document(f"{results.verdict} {results.name}", fragment(results))


def fragment(results: Results) -> str:
    """All that there is to say, every leaf and every wrong equation included, with its own style."""
    console = Console(record=True, file=io.StringIO(), width=PAGE.width)
    console.print(renderable(results, PAGE))
    return console.export_html(inline_styles=True, code_format=FRAGMENT)
