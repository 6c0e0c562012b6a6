"""Solvers and densities of functions with a rule of their author's, right or wrong: see `planted.py`."""

import jax
import jax.numpy as jnp

from ..comparing.nasty_cases import custom, normal
from .planted import program


@program("numpyro", "wrong power")
def numpyro(right):
    """The log density of a model, with a distribution whose `log_prob` has a rule."""
    import numpyro
    from numpyro import distributions as dist
    from numpyro.infer.util import potential_energy

    @jax.custom_jvp
    def log_cauchy(x, scale):
        return -jnp.log(jnp.pi * scale * (1 + (x / scale) ** 2))

    def rule(primals, tangents):
        x, scale = primals
        (dx, dscale), ratio = tangents, x / scale
        inner = 2 * ratio / (1 + ratio**2) / scale
        power = 1 if right else 2
        return log_cauchy(x, scale), -inner * dx + (inner * ratio**power - 1 / scale) * dscale

    log_cauchy.defjvp(rule)

    class Cauchy(dist.Cauchy):
        def log_prob(self, value):
            return log_cauchy(value - self.loc, jnp.broadcast_to(self.scale, value.shape))  # HERE

    def model(y):
        spread = numpyro.sample("spread", dist.HalfNormal(2.0))
        with numpyro.plate("groups", 3):
            theta = numpyro.sample("theta", Cauchy(0.0, spread))
        with numpyro.plate("observations", 6):
            numpyro.sample("y", dist.Normal(theta[jnp.array([0, 0, 1, 1, 2, 2])], 1.0), obs=y)

    params = {"spread": jnp.float32(0.3), "theta": normal(3)}
    return lambda params, y: potential_energy(model, (y,), {}, params), (params, normal(6, seed=1)), rule


@program("diffrax", "wrong transpose")
def diffrax(right):
    """A neural ODE: the rule is inside the vector field, inside the checkpointed loop of an adaptive solve."""
    import diffrax

    def backward(saved, dy):
        w, y = saved
        t = jnp.tanh(w @ y)
        inner = dy * (1 - t * t)
        return jnp.outer(inner, y), (w.T if right else w) @ inner

    dense = custom(lambda w, y: jnp.tanh(w @ y), lambda w, y: (jnp.tanh(w @ y), (w, y)), backward)

    def field(t, y, w):
        return dense(w, y) - 0.5 * y  # HERE

    def loss(w, y):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), t0=0.0, t1=1.0, dt0=0.25, y0=y, args=w, max_steps=16,
            stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-3),
        )  # fmt: skip
        return jnp.sum(solution.ys**2)

    return loss, (normal(3, 3), normal(3, seed=1)), backward


@program("optimistix", "stale residual")
def optimistix(right):
    """A least-squares problem, whose solution is differentiated by the implicit function theorem."""
    import optimistix

    @jax.custom_jvp
    def decay(rate, times):
        return jnp.exp(-rate * times)

    def rule(primals, tangents):
        (rate, times), (drate, dtimes) = primals, tangents
        y = decay(rate, times)
        saved = y if right else jnp.exp(-times)  # of the rate that it once had
        return y, -saved * (times * drate + rate * dtimes)

    decay.defjvp(rule)

    def residuals(y, args):
        data, times = args
        return y[0] * decay(y[1], times) - data  # HERE

    def loss(data, times):
        solver = optimistix.LevenbergMarquardt(rtol=1e-5, atol=1e-5)
        start = jnp.array([1.0, 1.0])
        found = optimistix.least_squares(residuals, solver, start, (data, times), max_steps=32, throw=False).value
        return jnp.sum(found**2)

    times = jnp.linspace(0.1, 2.0, 6)
    return loss, (1.5 * jnp.exp(-0.7 * times) + 0.02 * normal(6), times), rule


@program("lineax", "wrong axis")
def lineax(right):
    """A linear solve, whose matrix has its rows normalised by a function with a rule."""
    import lineax

    def backward(x, dy):
        r = jax.lax.rsqrt(jnp.sum(x * x, 1, keepdims=True))
        along = jnp.sum(dy * x, 1 if right else 0, keepdims=True)
        return (r * dy - x * r**3 * along,)

    def rows(x):
        return x * jax.lax.rsqrt(jnp.sum(x * x, 1, keepdims=True))

    rows = custom(rows, lambda x: (rows(x), x), backward)

    def loss(matrix, vector):
        operator = lineax.MatrixLinearOperator(rows(matrix))  # HERE
        return jnp.sum(lineax.linear_solve(operator, vector, lineax.QR()).value ** 2)

    return loss, (normal(3, 3) + 3 * jnp.eye(3), normal(3, seed=1)), backward


@program("jax.scipy", "wrong argument")
def scipy(right):
    """A log likelihood by special functions; its rule is of one partial derivative an argument."""
    from jax.scipy import special

    @jax.custom_jvp
    def log_beta(a, b):
        return special.gammaln(a) + special.gammaln(b) - special.gammaln(a + b)

    def along_a(da, y, a, b):
        return da * (special.digamma(a) - special.digamma(a + b))

    def along_b(db, y, a, b):
        return db * (special.digamma(b if right else a) - special.digamma(a + b))

    log_beta.defjvps(along_a, along_b)

    def loss(params, x):
        a, b = jnp.exp(params["a"]), jnp.exp(params["b"])
        return -jnp.mean((a - 1) * jnp.log(x) + (b - 1) * jnp.log1p(-x) - log_beta(a, b))  # HERE

    return loss, ({"a": normal(), "b": normal(seed=1)}, jnp.linspace(0.1, 0.9, 7)), along_b
