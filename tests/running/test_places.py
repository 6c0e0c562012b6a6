"""Which places take a gradient, and where JAX takes over."""

from .running import both_ways, rows


def test_where_a_rule_fails_jax_takes_over(tmp_path):
    source = """
        import jax, jax.numpy as jnp
        import fnbackprop as fb
        from jax.extend.core import Primitive
        from jax.interpreters import ad
        cube = Primitive("cube")
        cube.def_impl(lambda x: x * x * x)
        cube.def_abstract_eval(lambda x: x)
        ad.defjvp(cube, lambda t, x: 3 * x * x * t)
        @fb.vjp_rule(cube, "x -> y")
        def broken_vjp(dy, x):
            raise RuntimeError("broken")
        def loss(x):
            print("loss")
            return cube.bind(x).sum()
        for _ in range(2):
            print(jax.grad(loss)(jnp.arange(3.0)))
    """
    _, ours = both_ways(tmp_path, source)
    assert ours.table.startswith("fnbackprop run: script.py:17: by jax.grad, because ours cannot: RuntimeError: broken")
    assert ours.table.count("because") == 1


def test_where_jax_fails_too_the_error_is_its_own(tmp_path):
    source = """
        import jax, jax.numpy as jnp
        from jax.extend.core import Primitive
        cube = Primitive("cube")
        cube.def_impl(lambda x: x * x * x)
        cube.def_abstract_eval(lambda x: x)
        jax.grad(lambda x: cube.bind(x))(2.0)
    """
    plain, ours = both_ways(tmp_path, source)
    assert ours.stderr.splitlines()[-3:] == plain.stderr.splitlines()[-3:] != []
    assert "by jax.grad" not in ours.table


def test_every_way_of_taking_a_gradient(tmp_path):
    source = """
        import functools
        import jax, jax.numpy as jnp
        def loss(x):
            return jnp.sum(jnp.sin(x) ** 2)
        x = jnp.arange(3.0)
        print(jax.grad(loss)(x))
        print(jax.jit(jax.value_and_grad(loss))(x))
        print(jax.vmap(jax.grad(loss))(x[:, None]))
        print(jax.hessian(loss)(x))
        print(jax.vjp(jnp.sin, x)[1](x)[0])
        print(jax.lax.scan(lambda x, _: (x - jax.grad(loss)(x), None), x, None, length=3)[0])
        print(jax.checkpoint(jax.grad(loss))(x))
        print(jax.grad(lambda x: jax.grad(lambda y: y**3 * x)(x))(2.0))
        grad = functools.partial(jax.grad(loss))
        for _ in range(3):
            grad(x)
        def branches(x):
            return x**2 if x > 0 else x
        print(jax.grad(branches)(2.0), jax.grad(branches)(-2.0))
    """
    _, ours = both_ways(tmp_path, source, options=("--compare",))
    found = rows(ours.table)
    verdicts = {place.removeprefix("script.py:"): row["verdict"] for place, row in found.items()}
    assert verdicts == dict.fromkeys(("7", "8", "9", "10", "11", "12", "13", "14", "17", "20"), "PASS")
    assert found["script.py:17"]["calls"] == "3" and found["script.py:8"]["calls"] == "1 jit"
    assert "script.py:20 needs values: compared as it ran then" in ours.table


def test_an_ode_solver_of_jax_is_left_to_it(tmp_path):
    source = """
        import jax, jax.numpy as jnp
        from jax.experimental.ode import odeint
        times = jnp.array([0.0, 1.0])
        print(jax.grad(lambda y: odeint(lambda y, t: -y, y, times)[-1])(2.0).round(4))
    """
    _, ours = both_ways(tmp_path, source)
    assert set(rows(ours.table)) == {"script.py:5"}
