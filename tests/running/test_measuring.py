"""What the comparison says of a place, and what it never does to the script."""

from .running import both_ways, rows


def test_a_wrong_gradient_is_found(tmp_path):
    source = """
        import jax, jax.numpy as jnp
        @jax.custom_vjp
        def square(x):
            return x * x
        square.defvjp(lambda x: (x * x, x), lambda x, dy: (dy * x,))  # without the factor 2
        @jax.jit
        def step(w, key):
            x = jax.random.normal(key, w.shape)
            return w - 0.1 * jax.grad(lambda w: jnp.sum(square(w) * x))(w)
        w = jnp.arange(1.0, 4.0)
        for i in range(3):
            w = step(w, jax.random.key(i))
        print(w)
        w = jax.grad(lambda w: jnp.sum(w * jnp.cos(w)))(w)
    """
    _, ours = both_ways(tmp_path, source, options=("--compare",))
    found = rows(ours.table)
    assert found["script.py:10"]["verdict"] == "FAIL" and found["script.py:15"]["verdict"] == "PASS"
    assert "first wrong equation: custom_vjp_call" in ours.table and "a factor 2 is missing" in ours.table


def test_nothing_is_printed_or_done_twice(tmp_path):
    source = """
        import jax, jax.numpy as jnp
        def loss(x):
            jax.debug.print("x = {}", x)
            return jnp.sin(x)
        print(jax.jit(jax.grad(loss))(1.0))
        def host(x):
            print("on the host")
            return x
        def with_callback(x):
            return x * jax.lax.stop_gradient(jax.pure_callback(host, jax.ShapeDtypeStruct((), "float32"), 2.0))
        print(jax.grad(with_callback)(1.0))
    """
    _, ours = both_ways(tmp_path, source, options=("--compare",))
    assert "it has side effects (Debug), which would happen again" in ours.table


def test_a_function_that_needs_values_is_compared_as_it_ran(tmp_path):
    """Also the wrong rule that it uses is found."""
    source = """
        import jax, jax.numpy as jnp
        @jax.custom_vjp
        def square(x):
            return x * x
        square.defvjp(lambda x: (x * x, x), lambda x, dy: (dy * x,))  # without the factor 2
        def loss(p, x, power=lambda y: y**2):
            large = x[x > p["least"]] if jnp.sum(x) > 0 else x
            return jnp.sum(power(large) * p["w"]), {"count": len(large)}
        x, p = jnp.array([0.5, 2.0, 3.0]), {"least": jnp.array(1.0), "w": jnp.array(2.0)}
        for _ in range(3):
            print(jax.value_and_grad(loss, has_aux=True)(p, x))
        print(jax.grad(lambda x: loss(p, x, square)[0])(x))
    """
    _, ours = both_ways(tmp_path, source, options=("--compare",))
    found = rows(ours.table)
    assert [found[f"script.py:{n}"]["verdict"] for n in (12, 13)] == ["PASS", "FAIL"]
    assert found["script.py:12"]["memory"] != "-" and "needs values: compared as it ran then" in ours.table
    assert "a factor 2 is missing" in ours.table


def test_a_function_that_raises_has_no_gradient_by_hand(tmp_path):
    source = """
        import jax
        def broken(x):
            raise RuntimeError("broken")
        try:
            jax.grad(broken)(1.0)
        except RuntimeError as error:
            print(error)
    """
    _, ours = both_ways(tmp_path, source, options=("--compare",))
    assert "0 places of 1 by hand-written gradients" in ours.table
    assert "the function raised an error" in ours.table


def test_with_a_budget(tmp_path):
    source = """
        import jax, jax.numpy as jnp
        def loss(w, x):
            return jnp.sum(jax.lax.scan(lambda h, x: (jnp.tanh(w @ h + x), None), x[0], x)[0])
        print(jax.jit(jax.grad(loss))(0.1 * jnp.ones((3, 3)), jnp.ones((50, 3))).round(4))
    """
    _, ours = both_ways(tmp_path, source, options=("--compare", "--budget", "0.3"))
    assert rows(ours.table)["script.py:5"]["verdict"] == "PASS"


def test_a_budget_that_a_place_cannot_keep(tmp_path):
    """What a checkpointed step saves is its carry, which the budget does not hold: by hand without it, traced once."""
    source = """
        import jax, jax.numpy as jnp
        @jax.checkpoint
        def step(h, x):
            return jnp.tanh(h + x), None
        def loss(x):
            print("traced")
            return jnp.sum(jax.lax.scan(step, x[0], x)[0])
        print(jax.jit(jax.grad(loss))(jnp.ones((8, 3))).round(4))
    """
    _, ours = both_ways(tmp_path, source, options=("--compare", "--budget", "0.3"))
    assert rows(ours.table)["script.py:9"]["verdict"] == "PASS"
    assert "1 place of 1 by hand-written" in ours.table and "not within the budget" in ours.table


def test_the_table_is_at_most_80_columns(tmp_path):
    folder = tmp_path / ("a_long_name_" * 6)
    folder.mkdir()
    (folder / "model.py").write_text("import jax\ndef f(x):\n    return jax.grad(jax.numpy.sin)(x)\n")
    source = f"""
        import sys
        sys.path.insert(0, {str(folder)!r})
        import model
        print(model.f(1.0))
    """
    _, ours = both_ways(tmp_path, source, options=("--compare",))
    assert "model.py:3  " in ours.table
    assert max(map(len, ours.table.splitlines())) <= 80
