"""The byte-level GPT in a short form: it learns, writes, and says what it promises."""

import jax
import pytest

from .loading import expected_last_line, load_module, words


@pytest.fixture
def bytes_lm(tmp_path, monkeypatch):
    """The module with a tiny network, in a folder with a few files to learn from."""
    module = load_module("bytes_lm")
    tiny = module.Preset(width=16, layers=1, heads=2, length=16, batch_size=8, steps=60, learning_rate=0.02)
    monkeypatch.setitem(module.PRESETS, "laptop", tiny)
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        (tmp_path / f"{number}.md").write_text(f"number {number} and the number after it\n" * 5)
    return module


def test_it_learns_and_writes(bytes_lm, tmp_path, capsys):
    config = bytes_lm.Config(text=tmp_path, pattern="*.md", characters=20)
    bytes_lm.train_and_write(config)
    lines = capsys.readouterr().out.splitlines()
    assert words(lines[-1]) == words(expected_last_line(bytes_lm))
    assert float(lines[-1].split()[0]) < 4  # of 8 bits
    written = "\n".join(lines).split("report.html in runs/bytes-laptop\n\n")[1]
    assert written.startswith("def ") and len(written.split("\n\n")[0]) >= 10


def test_held_out_files_are_not_learned_from(bytes_lm, tmp_path):
    text, held_out = bytes_lm.texts(bytes_lm.Config(text=tmp_path, pattern="*.md"))
    assert not {path for path, _ in text.files} & {path for path, _ in held_out.files}
    assert len(text.files) + len(held_out.files) == 40


def test_the_standard_library_is_there(bytes_lm):
    text, held_out = bytes_lm.texts(bytes_lm.Config())
    assert len(text) > 5e6 and len(held_out) > 2e5


def test_the_large_preset_has_the_size_that_it_names(bytes_lm):
    """GPT-2's smallest network has 124 million parameters, with its own vocabulary."""
    size = bytes_lm.PRESETS["gpt2-124m"]
    sizes = {"length": size.length, "width": size.width, "layers": size.layers}
    params = jax.eval_shape(lambda key: bytes_lm.transformer.init(key, vocabulary=50257, **sizes), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 124439808
