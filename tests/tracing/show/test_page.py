"""The page of a trace: all of it in one file, readable without scripts, in dark mode and on a phone."""

import html.parser

import jax
import jax.numpy as jnp

import fnbackprop as fb


def states(params, xs):
    def step(h, x):
        h = jnp.tanh(params["cell"]["w"] * h + x)
        return h, h

    return jax.lax.scan(step, 0.5, xs)[1]


def fails(params, xs):  # the source has a < and a "quote", which must be escaped
    h = states(params, xs)
    return jnp.sum(jnp.where(h < 2, jnp.sqrt(h - h), 0)) + params["bias"]


def works(params, xs):
    return jnp.sum(states(params, xs) ** 2) + params["bias"]


def traced(fun):
    with jax.numpy_dtype_promotion("standard"):
        return fb.trace(fun, {"cell": {"w": jnp.float32(0.5)}, "bias": jnp.float32(0)}, jnp.linspace(-1, 1, 5))


class Checker(html.parser.HTMLParser):
    """Every element is closed in its turn; collects the text and the attributes."""

    VOID = {"meta", "line", "rect", "polyline"}

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page(tmp_path):
    trace = traced(fails)
    text = trace.html(tmp_path / "trace.html")
    assert (tmp_path / "trace.html").read_text(encoding="utf-8") == text
    assert trace._repr_html_().startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    names = {name for name, _ in checker.attributes}
    assert not names & {"src", "href", "onclick"} and "http" not in text
    assert text.count("<script>") == 1 and "<input" not in text  # the search field is there only with scripts
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    words = "".join(checker.words)
    assert trace.blame().sentence in words
    assert 'the source has a < and a "quote"' in words and 'a < and a "quote"' not in text
    blamed = [value for name, value in checker.attributes if name == "class" and "blamed" in value]
    assert blamed == ["blamed nonfinite"]
    assert all(str(row.place) in words for row in trace.rows)
    assert "cell" in words and "rms" in words


def test_what_it_draws():
    trace = traced(works)
    text = trace.html()
    assert 'aria-label="values and cotangents of each equation"' in text and 'class="blamed' not in text
    assert text.count("<polyline") == 2 and 'nonfinite"' not in text and "class=nonfinite" not in text
    steps = [part.split("</title>")[0] for part in text.split("<title>step ")[1:]]
    assert {step.split(":")[0] for step in steps} == {"0", "1", "2", "3", "4"}
    assert "all finite" in text and "Largest cotangents" in text


def test_tied_leaves_are_linked_and_a_folder_may_have_any_name():
    w = jnp.ones((2, 2))
    params = {"embedding": {"w": w}, "head": {"w": w}, "path": {"items": jnp.ones(2)}}

    def loss(params):
        return jnp.sum(params["embedding"]["w"] @ params["head"]["w"]) + jnp.sum(params["path"]["items"])

    trace = fb.trace(loss, params)
    assert trace.tied == {"embedding/w": ("head/w",), "head/w": ("embedding/w",)}
    checker = Checker()
    checker.feed(trace.html())
    assert not checker.open
    ids = [value for name, value in checker.attributes if name == "id"]
    links = [value for name, value in checker.attributes if name == "href"]
    assert ids == ["leaf-0", "leaf-1", "leaf-2"] and links == ["#leaf-1", "#leaf-0"]
    words = "".join(checker.words)
    assert "the same array as head/w" in words and "path/items" in words
