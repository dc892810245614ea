"""A world of lines: 300 pixels, three labels, quadratic, scatter and noise of one per cent."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbcal.emulator.full import quadratic
from hbcal.spectra.container import Spectra


def make_world(seed=0, n_pix=300):
    rng = np.random.default_rng(seed)
    wave = np.arange(float(n_pix))
    strength = np.zeros((10, n_pix))
    for _ in range(60):
        line = np.exp(-0.5 * ((wave - rng.uniform(0, n_pix)) / 1.5) ** 2)
        strength += rng.normal(size=(10, 1)) * line * np.r_[0.0, 0.06 * np.ones(3), 0.015 * np.ones(6)][:, None]
        strength[0] -= 0.2 * rng.random() * line
    strength[0] += 1.0
    scale, centre = np.array([300.0, 0.5, 0.3]), np.array([4800.0, 2.5, -0.2])

    def clean(labels):
        return np.asarray(jax.vmap(quadratic)(jnp.asarray((labels - centre) / scale))) @ strength

    def observe(n, seed, *, label_err=0.0, noise=0.01, scatter=0.01, labels=None, skew=0.0):
        rng = np.random.default_rng([seed, 9])
        x = rng.normal(size=(n, 3))
        labels = centre + scale * (x + skew * (x**2 - 1)) if labels is None else labels
        flux = clean(labels)
        flux = flux + rng.normal(size=flux.shape) * np.hypot(noise, scatter)
        err = np.broadcast_to(label_err * scale, labels.shape).copy()
        ids = np.array([f"s{i}" for i in range(n)])
        names = ("teff", "logg", "fe_h")
        seen = Spectra(
            wave, flux, np.full_like(flux, noise), ids, labels + err * rng.normal(size=err.shape), err, names
        )
        return seen, labels

    return SimpleNamespace(wave=wave, strength=strength, scale=scale, centre=centre, clean=clean, observe=observe)


@pytest.fixture(scope="package", name="world")
def _world():
    return make_world()


@pytest.fixture(scope="package", name="trained")
def _trained(world, tmp_path_factory):
    from hbcal.training import train_emulator

    seen, _ = world.observe(600, 1, label_err=0.1)
    return train_emulator(seen, tmp_path_factory.mktemp("pixels") / "model", method="quadratic")
