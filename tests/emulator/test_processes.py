"""Emulators whose features are Gaussian processes: few spectra of exact labels, bent beyond a quadratic."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from hbcal._errors import HbcalError
from hbcal.emulate import emulate
from hbcal.emulator.files import about_emulator, load_emulator
from hbcal.label import label_spectra
from hbcal.numerics.gaussian_process import fit_processes, left_out
from hbcal.numerics.principal import principal_scores
from hbcal.spectra.container import Spectra
from hbcal.training import CoverageWarning, train_emulator

CENTRE, SCALE = np.array([4800.0, 2.5, -0.2]), np.array([400.0, 0.5, 0.3])


def grid(n, seed, noise=0.0, n_pix=200):
    """Lines whose depths saturate, and grow like exponentials of the labels: no quadratic."""
    rng = np.random.default_rng(3)
    wave = 6000.0 + 0.2 * np.arange(n_pix)
    line = np.exp(-0.5 * ((wave - rng.uniform(wave[0], wave[-1], (40, 1))) / 0.4) ** 2)
    slope, strong = rng.normal(0.0, 0.7, (40, 3)), rng.uniform(-2.0, 1.0, 40)
    rng = np.random.default_rng([seed, 4])
    x = rng.uniform(-1.7, 1.7, (n, 3))
    depth = 0.4 * -np.expm1(-np.exp(strong + x @ slope.T))
    flux = 1.0 - depth @ line + noise * rng.normal(size=(n, n_pix))
    labels, err = CENTRE + SCALE * x, np.full((n, n_pix), max(noise, 5e-5))
    return Spectra(
        wave, flux, err, np.array([f"g{seed}_{i}" for i in range(n)]), labels, np.zeros_like(labels),
        ("teff", "logg", "fe_h"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("grid") / "model"


@pytest.fixture(scope="module")
def trained(home):
    emulator = train_emulator(grid(200, 0), home)
    assert about_emulator(home)["method"] == "process"  # labels are exact, and stars few
    return emulator


@pytest.fixture(scope="module")
def fresh():
    return grid(150, 1, noise=0.01)


def far(found, truth):
    """Squared distance of the truth, in the posterior's covariance."""
    off = found["value"].to_numpy() - truth
    return np.einsum("sl,sl->s", off, np.linalg.solve(found["covariance"].to_numpy(), off[..., None])[..., 0])


def test_bent_spectra_are_told_far_better_than_by_a_quadratic(trained, fresh, tmp_path):
    found = label_spectra(trained, fresh, fast=True)
    with pytest.warns(CoverageWarning, match="do not hold"):
        quadratic = train_emulator(grid(200, 0), tmp_path / "quadratic", method="quadratic")
    rms = lambda one: np.sqrt(np.mean(((one["value"].to_numpy() - fresh.labels) / SCALE) ** 2))  # noqa: E731
    assert rms(found) < 0.5 * rms(label_spectra(quadratic, fresh, fast=True))
    assert (found["k_hat"] < 0.7).mean() > 0.95
    assert 0.86 < (far(found, fresh.labels) < 7.81).mean() <= 0.99  # 95% of three labels


def test_without_its_own_error_it_is_overconfident(trained):
    """The planted defect, where photons are many and training spectra few."""
    bare = replace(
        trained, features=replace(
            trained.features, together=0.0 * trained.features.together, floor=0.0 * trained.features.floor
        ),
    )  # fmt: skip
    seen = grid(150, 2, noise=0.001)
    assert (far(label_spectra(trained, seen, fast=True), seen.labels) < 7.81).mean() > 0.8
    assert (far(label_spectra(bare, seen, fast=True), seen.labels) < 7.81).mean() < 0.7


def test_its_density_is_that_of_its_pixels(trained, fresh):
    star = jax.tree.map(lambda leaf: leaf[0], trained.read(fresh.flux[:1], fresh.flux_err[:1])[0])
    layer, features = trained.layer, trained.features
    first = trained.guess_packed(trained.read(fresh.flux[:1], fresh.flux_err[:1])[0].packed)[0][0]

    def dense(x):
        phi = np.asarray(features.of(x))
        v = fresh.flux_err[0] ** 2 + layer.scatter + phi @ layer.spread @ phi / layer.scale
        slope = np.asarray(jax.jacfwd(features.of)(first))
        sd = np.sqrt(features.processes.variance(first) + features.own)[:, None] * features.together
        cov = (slope * features.floor**2) @ slope.T
        cov[1:, 1:] += sd @ sd.T
        return multivariate_normal(layer.weights @ phi, np.diag(v) + layer.weights @ cov @ layer.weights.T).logpdf(
            fresh.flux[0]
        )

    x = jnp.zeros(3), jnp.array([0.5, -1.0, 0.3])
    told = [float(trained.log_likelihood(each, star)) for each in x]
    np.testing.assert_allclose(told[1] - told[0], dense(x[1]) - dense(x[0]), rtol=1e-4)


def test_far_from_the_training_stars_it_doubts_and_says_so(trained, fresh):
    doubt = [float(jnp.abs(trained.features.doubt(jnp.full(3, at))).sum()) for at in (0.0, 3.0)]
    assert doubt[1] > 5.0 * doubt[0]
    beyond = grid(20, 5, noise=0.01)
    rng = np.random.default_rng(0)
    odd = replace(beyond, flux=1.0 - 0.5 * rng.random(beyond.flux.shape))
    assert label_spectra(trained, odd, fast=True)["flag"].all()


def test_it_is_read_back_and_answers_alike(trained, home, fresh):
    few = fresh.take(slice(20))
    again = label_spectra(load_emulator(home), few, fast=True)
    np.testing.assert_array_equal(again["value"], label_spectra(trained, few, fast=True)["value"])


def test_too_many_stars_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("hbcal.training.MOST_STARS", 100)
    with pytest.raises(HbcalError, match="190 training stars are too many for Gaussian processes, which take 100"):
        train_emulator(grid(200, 0), tmp_path / "model", method="process")
    assert not (tmp_path / "model").exists()


def test_the_slope_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = np.column_stack([np.sin(x[:, 0]) * np.exp(0.5 * x[:, 1]), x[:, 2] ** 2 + x[:, 0] * x[:, 1]])
    found, at = fit_processes(x, y - y.mean(axis=0)), jnp.array([0.3, -0.2, 0.5])
    np.testing.assert_allclose(found.slope(at), jax.jacfwd(found.mean)(at), atol=1e-8)


def test_points_left_out_are_as_far_off_as_is_claimed():
    """Against the fit without that point, kernel and size as they are."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 2))
    y = (np.sin(1.5 * x[:, :1]) + 0.1 * rng.normal(size=(80, 1)))[:, :1]
    found = fit_processes(x, y)
    off, sd = left_out(found)
    whole = np.asarray(found.kernel.between(jnp.asarray(x), jnp.asarray(x)))
    keep = np.arange(80) != 7
    across = np.linalg.solve(whole[np.ix_(keep, keep)] + found.ratio[0] * np.eye(79), whole[keep, 7])
    np.testing.assert_allclose(off[7, 0], y[7, 0] - across @ y[keep, 0], rtol=1e-4)
    var = found.size[0] * (whole[7, 7] + found.ratio[0] - across @ whole[keep, 7])
    np.testing.assert_allclose(sd[7, 0], np.sqrt(var), rtol=1e-4)


def test_missing_pixels_are_filled_with_what_the_others_say():
    rng = np.random.default_rng(0)
    flux = rng.normal(size=(100, 2)) @ rng.normal(size=(2, 60)) + 0.01 * rng.normal(size=(100, 60))
    err = np.full_like(flux, 0.01)
    whole = principal_scores(flux, err, 2)
    gaps = np.where(rng.random(flux.shape) < 0.1, np.nan, flux)
    found = principal_scores(gaps, err, 2)
    turn, *_ = np.linalg.lstsq(found, whole, rcond=None)
    assert np.abs(found @ turn - whole).max() < 0.1 * whole.std()


def test_what_it_expects_of_a_spectrum_is_as_far_off_as_it_says(trained):
    """In the space of the emulator's own errors: that of pixels alone, and together."""
    seen = grid(150, 7)  # hardly any noise: what is left over is the emulator's
    told = emulate(trained, dict(zip(seen.label_names, seen.labels.T, strict=True)))
    off, root = seen.flux - told["flux"].to_numpy(), told["root"].to_numpy()
    alone = told["variance"].to_numpy() + seen.flux_err**2
    sd = np.sqrt(alone + (root**2).sum(axis=2))
    assert 0.6 < (np.abs(off) < sd).mean() < 0.9
    assert (np.abs(off) < 4.0 * sd).mean() > 0.99
    assert (np.abs(off) < np.sqrt(alone)).mean() < 0.5  # planted: without what pixels have in common
    beyond = emulate(trained, dict(zip(seen.label_names, (CENTRE + 5.0 * SCALE)[:, None], strict=True)))
    assert bool(beyond["flag"][0])
    assert (beyond["root"] ** 2).sum() > 5.0 * (told["root"][:1] ** 2).sum()
