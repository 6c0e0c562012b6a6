"""Adapters learn the turned digits, and what they are added to stays as the first run left it."""

import numpy as np
import pytest

import fnbackprop as fb

from .loading import load_module, promised_numbers


@pytest.fixture(scope="module")
def finetune():
    return load_module("finetune")


def test_a_short_run(finetune, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    finetune.learn_and_adapt(finetune.Config(steps=60, width=32, learning_rate=1e-2))
    before, after, learned, stay = promised_numbers(finetune, capsys.readouterr().out)
    assert before < 0.3 and after > before + 0.3 and learned == 4 * (64 + 3 * 32 + 32 + 10) and stay == 3466

    turned = finetune.experiment(finetune.Config(task="turned", width=32))
    start = turned.arguments()[0]
    like = {"base": start["base"], "lora": start["lora"]}
    ended = fb.load_parameters("runs/finetune-turned", like=like)
    kept = fb.load_parameters(finetune.BASE, like=start["base"])
    np.testing.assert_array_equal(ended["base"]["layers"][0]["w"], kept["layers"][0]["w"])
    merged = fb.load_parameters(finetune.MERGED, like=kept)["layers"][0]["w"]
    pair = ended["lora"]["layers/0/w"]
    np.testing.assert_allclose(merged - kept["layers"][0]["w"], 4 * pair["a"] @ pair["b"], atol=1e-5)
