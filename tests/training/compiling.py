"""How often XLA has compiled a function, as JAX itself reports it."""

import jax

_COMPILED: list[str] = []


def _listen(event: str, seconds: float, **facts) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(str(facts.get("fun_name")))


jax.monitoring.register_event_duration_secs_listener(_listen)


def times_compiled(function: str) -> int:
    """The number of compilations of functions of this name since the first import of this module."""
    return _COMPILED.count(f"jit({function})")


def programs_compiled() -> int:
    """The number of all compilations since the first import of this module."""
    return len(_COMPILED)
