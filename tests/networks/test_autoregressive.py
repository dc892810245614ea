"""The density of a spectrum's components: what may hang on what, and the linear model it starts from."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.stats import multivariate_normal

from hbcal.networks.autoregressive import Autoregressive, asleep, linear_start


def awake(n_lead):
    """A network whose every weight matters."""
    net = Autoregressive(2, 1, 5, n_lead=n_lead, hidden=(12, 12), dropout=0.0, rngs=nnx.Rngs(0))
    for layer in (net.mean_out, net.log_sd_out, net.labels_skip, net.seen_skip):
        layer.kernel.set_value(0.3 * jax.random.normal(jax.random.PRNGKey(1), layer.kernel[...].shape))
    return net


def reach(net):
    """|d (mean_k, log sd_k) / d z_j| > 0, (k, j)."""

    def moments(z):
        mean, log_sd = net.moments(jnp.ones(2), net.lift(jnp.concatenate([jnp.ones(1), z])))
        return jnp.stack([mean, log_sd])

    return np.abs(np.asarray(jax.jacobian(moments)(0.1 * jnp.arange(5.0)))).max(axis=0) > 0


def test_a_component_hangs_on_those_before_it_and_on_no_other():
    assert np.array_equal(reach(awake(3)), np.tril(np.ones((5, 5), bool), -1))


def test_a_planted_hole_in_a_mask_is_caught():
    net = awake(3)
    mask = np.array(net.seen_skip.mask[...])
    mask[-1, 0] = 1.0
    net.seen_skip.mask.set_value(jnp.asarray(mask))
    assert reach(net)[0, 4]


def test_the_start_is_the_gaussian_that_least_squares_gives():
    rng = np.random.default_rng(0)
    n = 3000
    x, context = rng.normal(size=(n, 2)), rng.normal(size=(n, 1))
    root = np.tril(rng.normal(size=(4, 4))) + 2.0 * np.eye(4)
    z = x @ rng.normal(size=(2, 4)) + context @ rng.normal(size=(1, 4)) + rng.normal(size=(n, 4)) @ root.T
    net = Autoregressive(2, 1, 4, n_lead=2, hidden=(8, 8), dropout=0.3, rngs=nnx.Rngs(0))
    seen = np.column_stack([context, z])
    linear_start(net, x, seen)
    asleep(net)
    design = np.column_stack([np.ones(n), x, context])
    left = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
    dense = multivariate_normal(np.zeros(4), left.T @ left / n).logpdf(left)
    found = net.log_density(jnp.asarray(x), jnp.asarray(z), net.lift(jnp.asarray(seen)))
    np.testing.assert_allclose(found, dense, atol=2e-3)


def test_the_density_integrates_to_one():
    net = awake(1)
    grid = jnp.linspace(-30.0, 30.0, 1201)
    first, step = jnp.zeros(5), float(grid[1] - grid[0])

    def at(value):  # along the last component, the others held: a conditional density
        z = first.at[4].set(value)
        mean, log_sd = net.moments(jnp.ones(2), net.lift(jnp.concatenate([jnp.ones(1), z])))
        white = (z - mean) * jnp.exp(-log_sd)
        return jnp.exp(-0.5 * white[4] ** 2 - log_sd[4]) / jnp.sqrt(2 * jnp.pi)

    assert abs(float(jax.vmap(at)(grid).sum()) * step - 1.0) < 1e-4
