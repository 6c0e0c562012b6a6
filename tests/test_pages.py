"""The pages' common base."""

from fnbackprop.pages import document, render


def test_a_document():
    text = document("a < b", "<p>body</p>", "p { color: red; }")
    assert text.startswith("<!doctype html>") and "<title>a &lt; b</title>" in text and "<p>body</p>" in text
    assert "p { color: red; }" in text and "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_a_template_of_its_own(tmp_path):
    template = tmp_path / "mine.html"
    template.write_text('{% extends "page.html" %}{% block body %}<p>{{ word }}</p>{% endblock %}')
    text = render(template, title="mine", word="<script>")
    assert "<p>&lt;script&gt;</p>" in text and "<title>mine</title>" in text and text.count("<body>") == 1
