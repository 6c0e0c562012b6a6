"""A GPT that learns to write Python, byte by byte, from Python's standard library.

    python experiments/bytes_lm.py                        # 3 minutes on 2 cores
    python experiments/bytes_lm.py --steps 200            # a short try: half a minute
    python experiments/bytes_lm.py --text my_texts/ --pattern '*.md'
    python experiments/bytes_lm.py --preset gpt2-124m     # for an accelerator

The text is the library's own 11 MB of sources without its tests; one file in twenty is held out, by its name. At the
end it prints what the network writes. Expected last line:

    1.96 bits per byte on held-out files
"""

import dataclasses
import math
import sysconfig
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import optax

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import transformer
from fnbackprop.training import data

HELD_OUT_WINDOWS = 256
PROMPT = "def "


@dataclasses.dataclass(frozen=True)
class Preset:
    """The size of the network and of a step."""

    width: int
    layers: int
    heads: int
    length: int  # bytes that the network sees at once
    batch_size: int
    steps: int
    learning_rate: float
    precision: str = "float32"


PRESETS = {
    "laptop": Preset(width=128, layers=3, heads=2, length=64, batch_size=16, steps=2000, learning_rate=0.02),
    # GPT-2's smallest network: 124 million parameters with its vocabulary, 86 million with that of bytes.
    "gpt2-124m": Preset(768, 12, 12, 1024, batch_size=64, steps=20000, learning_rate=0.01, precision="bfloat16"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is read, and how large the network is."""

    preset: Literal["laptop", "gpt2-124m"] = "laptop"
    """The size of the network and of a step."""
    steps: int | None = None
    """How many weight updates, if not the preset's."""
    text: Path | None = None
    """A file or a folder to learn from; by default Python's standard library."""
    pattern: str = "*.py"
    """Which files of the folder."""
    characters: int = 400
    """How many the network writes at the end."""
    seed: int = 0
    """Of the parameters and of the order of the text."""


def texts(config: Config) -> tuple[data.ByteText, data.ByteText]:
    """(text to learn from, text held out)."""
    folder = config.text or Path(sysconfig.get_paths()["stdlib"])
    files = data.find_files(folder, config.pattern, leave_out=("site-packages", "test", "tests", "idle_test"))
    return tuple(map(data.ByteText, data.split_files(files)))


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""
    size, (text, held_out) = PRESETS[config.preset], texts(config)
    windows = data.evenly_spaced(held_out, length=size.length, count=HELD_OUT_WINDOWS)
    in_parts = jax.tree.map(lambda array: array.reshape(-1, size.batch_size, size.length), windows)

    def init(key):
        sizes = {"length": size.length, "width": size.width, "layers": size.layers}
        return transformer.init(key, vocabulary=data.VOCABULARY, **sizes)

    def loss(params, batch, key):
        return losses.softmax_cross_entropy(logits_of(config, params, batch["inputs"]), batch["targets"])

    @jax.jit
    def evaluate(params):
        nats = jax.lax.map(lambda batch: loss(params, batch, None), in_parts)
        return {"bits_per_byte": jnp.mean(nats) / math.log(2)}

    steps = config.steps or size.steps
    rate = optax.warmup_cosine_decay_schedule(0.0, size.learning_rate, steps // 20, steps, size.learning_rate / 20)
    return fb.Experiment(
        name=f"bytes-{config.preset}",
        init=init,
        loss=loss,
        batch=data.windows(text, length=size.length, batch_size=size.batch_size, seed=config.seed),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.muon(rate)),
        steps=steps,
        seed=config.seed,
        evaluate=evaluate,
        evaluate_every=max(1, steps // 5),
        precision=size.precision,
        config=config,
    )


def logits_of(config: Config, params, tokens):
    """(batch, time) to (batch, time, 256)."""
    return transformer.apply(params, tokens, heads=PRESETS[config.preset].heads)


def write(config: Config, params, prompt: str, temperature: float = 0.7) -> str:
    """What the network writes after the prompt, at the beginning of a file."""
    start = jnp.zeros(PRESETS[config.preset].length, jnp.int32)  # zeros end a file
    start = jnp.concatenate([start, jnp.frombuffer(prompt.encode(), jnp.uint8).astype(jnp.int32)])[len(prompt) :]

    def step(window, key):
        byte = jax.random.categorical(key, logits_of(config, params, window[None])[0, -1] / temperature)
        return jnp.concatenate([window[1:], byte[None].astype(jnp.int32)]), byte

    keys = jax.random.split(jax.random.key(config.seed), config.characters)
    written = jax.jit(lambda: jax.lax.scan(step, start, keys)[1])()
    return prompt + bytes(written.tolist()).decode(errors="replace")


def train_and_write(config: Config) -> None:
    """Train, let the network write, and measure it on files that it has not seen."""
    reading = experiment(config)
    params = fb.train(reading).params
    print(f"\n{write(config, params, PROMPT)}\n")
    print(f"{reading.evaluate(params)['bits_per_byte']:.2f} bits per byte on held-out files")


if __name__ == "__main__":
    fb.run(experiment, default=train_and_write)
