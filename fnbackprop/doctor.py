"""`fnbackprop doctor`: versions, devices, a gradient compared on this machine, and what is not installed."""

import platform
from importlib import metadata

import jax
import jax.numpy as jnp

from .backprop.coverage import coverage
from .comparing.pipeline import compare
from .extras import EXTRAS, missing_modules
from .jaxprs.tested_versions import TESTED_JAX, is_tested
from .version import __version__

PACKAGES = ("jaxlib", "numpy", "scipy", "optax", "orbax-checkpoint", "flax", "equinox")  # whose versions matter


def report() -> int:
    """Print it, line by line as it becomes known; returns 0 if the gradient is right here, else 1."""
    _say("versions", f"fnbackprop {__version__}, Python {platform.python_version()}, {platform.system()}")
    tested = "" if is_tested(jax.__version_info__) else "; this version was NOT"
    _say("", f"JAX {jax.__version__} ({TESTED_JAX[0]} to {TESTED_JAX[-1]} were tested{tested})")
    found = [f"{package} {version}" for package in PACKAGES if (version := _version_of(package))]
    _say("", ", ".join(found))
    devices = jax.devices()
    _say("devices", f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    missing = [row.primitive for row in coverage().missing]
    complete = "each primitive of this JAX has one, or a reason why it has none"
    _say("rules", f"missing for {', '.join(missing)}" if missing else complete)
    compared = compare(_loss, *_arguments(), progress=False)
    _say("gradient", f"{compared.verdict}: of a small recurrent network, by hand, by JAX and by differences")
    if not compared.ok:
        print(compared)
    for extra in EXTRAS:
        absent = missing_modules(extra)
        advice = f"without {', '.join(absent)}: pip install 'fnbackprop[{extra}]'" if absent else "installed"
        _say(f"[{extra}]", advice)
    return 0 if compared.ok else 1


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _say(subject: str, text: str) -> None:
    print(f"{subject:<14}{text}", flush=True)


def _loss(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Products, a scan, a softmax and a loop whose number of steps is data."""

    def cell(h, x):
        h = jnp.tanh(x @ params["wx"] + h @ params["wh"])
        return h, jax.nn.log_softmax(h)

    h, outputs = jax.lax.scan(cell, jnp.zeros(4), x)
    grown = jax.lax.while_loop(lambda h: jnp.sum(h * h) < 4, lambda h: 1.5 * h, h)
    return jnp.sum(jnp.sin(grown)) - jnp.mean(outputs[:, 0])


def _arguments() -> tuple[dict[str, jax.Array], jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"wx": (3, 4), "wh": (4, 4)}
    params = {name: jax.random.normal(key, shape) / 2 for key, (name, shape) in zip(keys, shapes.items(), strict=False)}
    return params, jax.random.normal(keys[2], (5, 3))
