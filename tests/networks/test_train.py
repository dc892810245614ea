"""Training goes on after a kill as if nothing had been, and its score is best for the true density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hbcal.emulator.train_network import contrast
from hbcal.networks.train import TrainSettings, fit
from hbcal.numerics.label_density import LabelDensity

X = jnp.asarray(np.random.default_rng(0).normal(size=(128, 3)), jnp.float32)


class Killed(Exception):
    """Stands for a kill in the middle of an epoch."""


def trained(state, *, killed_at=None):
    net = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    def stop(epoch, *_):
        if epoch == killed_at:
            raise Killed

    off = lambda net, batch, key: ((net(batch) - batch.sum(-1, keepdims=True)) ** 2).mean()  # noqa: E731
    settings = TrainSettings(epochs=8, batch=16, every=2)
    curve = fit(net, off, lambda net: -off(net, X, None), X, settings, state=state, progress=stop)
    return np.asarray(net.kernel[...]), curve


def test_a_training_that_was_killed_ends_with_the_same_weights(tmp_path):
    with pytest.raises(Killed):
        trained(tmp_path / "state.npz", killed_at=5)
    kernel, curve = trained(tmp_path / "state.npz")
    whole, whole_curve = trained(None)
    assert np.array_equal(kernel, whole)
    assert np.array_equal(curve, whole_curve)


def test_a_torn_state_is_as_good_as_none(tmp_path):
    trained(tmp_path / "state.npz")
    (tmp_path / "state.npz").write_bytes((tmp_path / "state.npz").read_bytes()[:100])
    assert np.array_equal(trained(tmp_path / "state.npz")[0], trained(None)[0])


def test_the_score_is_best_at_the_true_density():
    n, sd = 4000, 0.5
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(n, 1)))
    y = x + sd * jnp.asarray(rng.normal(size=(n, 1)))
    prior = LabelDensity(np.zeros(1), np.zeros((1, 1)), np.ones((1, 1, 1)))

    def score(power, shift):
        likely = lambda xs: -0.5 * power * ((y[None] - xs - shift) ** 2).sum(-1) / sd**2  # noqa: E731
        told = contrast(likely, prior, x, jnp.full(1, sd), jax.random.PRNGKey(0), 7)
        return float(told.mean()), float(told.std() / np.sqrt(n))

    best, se = score(1.0, 0.0)
    for power, shift in ((0.4, 0.0), (2.5, 0.0), (1.0, 0.3)):  # too modest, too sure, biased: each is a defect
        assert score(power, shift)[0] < best - 3 * se
