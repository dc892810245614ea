"""Tilted, shifted and broadened spectra: the packed density against pixels, recovery and coverage, planted defects."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, logsumexp
from scipy.stats import binom, multivariate_normal

from hbcal import HbcalError
from hbcal import label as job
from hbcal.emulator.full import quadratic
from hbcal.emulator.nuisances import NuisanceEmulator, Nuisances, with_nuisances
from hbcal.emulator.pixels import scale_root
from hbcal.evaluation import summary
from hbcal.infer.many import ManySettings
from hbcal.label import label_spectra
from hbcal.numerics.moved_weights import continuum_terms
from hbcal.numerics.wavelength import SPEED_OF_LIGHT
from hbcal.spectra.container import Spectra
from hbcal.training import train_emulator

WAVE = np.concatenate([np.linspace(5000.0, 5030.0, 151), np.linspace(5600.0, 5640.0, 181)])
WIDTH = 30.0  # km/s, sd of a line: 2.5 pixels
CENTRE, UNIT = np.array([5000.0, -0.2]), np.array([300.0, 0.3])
WHAT = Nuisances(continuum=1, continuum_sd=0.05, velocity=8.0, broadening=12.0)
N, NOISE = 300, 0.01


def clean(labels, velocity=0.0, broadening=0.0, tilt=None):
    """Lines of known place, width and response: shifted and broadened exactly. tilt: (n, 4)."""
    rng = np.random.default_rng(2)
    at = np.concatenate([rng.uniform(5001, 5029, 14), rng.uniform(5602, 5638, 18)])
    depth, slope = rng.uniform(0.1, 0.4, 32), rng.normal(0.0, 0.25, (2, 32))
    x = (labels - CENTRE) / UNIT
    velocity, broadening = (np.broadcast_to(each, len(x))[:, None, None] for each in (velocity, broadening))
    width = np.sqrt(WIDTH**2 + broadening)
    u = SPEED_OF_LIGHT * (np.log(WAVE)[None, :, None] - np.log(at)) - velocity
    strength = depth * (1.0 + x @ slope + 0.05 * x[:, :1] * x[:, 1:])  # quadratic: the emulator can be right
    flux = 1.0 - (strength[:, None] * WIDTH / width * np.exp(-0.5 * (u / width) ** 2)).sum(-1)
    if tilt is not None:
        flux *= 1.0 + tilt @ continuum_terms(WAVE, np.repeat([0, 1], [151, 181]), 1)[0].T
    return flux


def observe(n, seed, labels=None, **moved):
    rng = np.random.default_rng([seed, 4])
    labels = CENTRE + UNIT * rng.normal(size=(n, 2)) if labels is None else labels
    flux = clean(labels, **moved)
    flux = flux + NOISE * rng.normal(size=flux.shape)
    return Spectra(
        WAVE, flux, np.full_like(flux, NOISE), np.array([f"s{i}" for i in range(n)]), labels, np.zeros_like(labels),
        ("teff", "fe_h"),
    )  # fmt: skip


@pytest.fixture(scope="module", name="trained")
def _trained(tmp_path_factory):
    return train_emulator(
        observe(700, 1), tmp_path_factory.mktemp("nuisances") / "m", method="quadratic", noise="independent"
    )


@pytest.fixture(scope="module", name="drawn")
def _drawn():
    """Stars with nuisances from their own priors, and what they are."""
    rng = np.random.default_rng(3)
    c = {
        "tilt": 0.05 * rng.normal(size=(N, 4)), "velocity": 8.0 * rng.normal(size=N),
        "broadening": 144.0 * np.abs(rng.normal(size=N)),
    }  # fmt: skip
    return observe(N, 5, **c), np.column_stack([c["tilt"], c["velocity"], c["broadening"]])


@pytest.fixture(scope="module", name="found")
def _found(trained, drawn):
    return label_spectra(trained, drawn[0], fast=True, nuisances=WHAT)


def within(share, probability, n=N):
    low, high = binom.interval(0.999, n, probability)
    return low / n <= share <= high / n


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def test_its_density_is_that_of_its_pixels(trained, drawn):
    """The packed sums against a dense Gaussian of the same weights and directions, written out."""
    from hbcal.emulator.nuisances import _Mover

    emulator, seen = with_nuisances(trained, WHAT), drawn[0].take(slice(1))
    star, layer = first(emulator.read(seen.flux, seen.flux_err)[0]), trained.layer
    mover = _Mover(emulator, seen.flux, seen.flux_err)
    there = np.isfinite(mover.flux[0])
    x0 = emulator_x0(emulator, seen)
    columns = mover.columns(np.asarray(star.centre), x0)[there]
    w, b = columns[:, :6], columns[:, 6:]

    def dense(x):
        phi = np.asarray(quadratic(jnp.asarray(x)))
        own = layer.scatter + phi @ layer.spread @ phi / layer.scale
        v = (seen.flux_err[0] ** 2 + (1.0 + mover.tilts @ np.asarray(star.centre)[:4]) ** 2 * own)[there]
        a = w @ np.asarray(jax.jacfwd(quadratic)(jnp.asarray(x))) @ scale_root(trained.scale, jnp.asarray(x))
        cov = np.diag(v) + a @ a.T + b[:, :-1] * emulator.sd[:-1] ** 2 @ b[:, :-1].T
        level = multivariate_normal(np.zeros(len(v)), cov)
        wide = np.linspace(0.0, 6.0 * emulator.sd[-1], 2001)  # broadening, half normal
        left = seen.flux[0, there] - w @ phi + b @ np.asarray(star.centre) - wide[:, None] * b[:, -1]
        return logsumexp(level.logpdf(left) - 0.5 * (wide / emulator.sd[-1]) ** 2 - np.log(2.0) * (wide == 0))

    x = [np.zeros(2), np.array([0.5, -1.0])]
    told = [float(emulator.log_likelihood(jnp.asarray(each), star)) for each in x]
    np.testing.assert_allclose(told[1] - told[0], dense(x[1]) - dense(x[0]), rtol=1e-5)


def emulator_x0(emulator, seen):
    """Where `read` ends up, repeated."""
    from hbcal.emulator.nuisances import ROUNDS, _Mover

    mover, rows = _Mover(emulator, seen.flux, seen.flux_err), np.arange(len(seen.star))
    centre, x = mover.search(rows)
    for _ in range(ROUNDS):
        centre, x, _ = mover.step(rows, centre, x)
    return x[0]


def test_the_linear_form_is_that_of_spectra_that_truly_moved(trained, drawn):
    """The posterior on a grid of labels and nuisances, every spectrum of it moved anew, against the one integrated."""
    emulator, seen = with_nuisances(trained, replace(WHAT, continuum=None, broadening=0.0)), observe(1, 8, velocity=9.0)
    star = first(emulator.read(seen.flux, seen.flux_err)[0])
    layer, truth = trained.layer, (seen.labels[0] - trained.known.centre) / trained.known.unit
    from hbcal.numerics.moved_weights import curves, moved

    made = curves(WAVE, np.repeat([0, 1], [151, 181]), layer.weights)
    edge = np.isfinite(_usable(emulator, seen))
    grid = truth[0] + np.linspace(-0.15, 0.15, 41)
    v = np.linspace(4.0, 14.0, 101)
    weights = [moved(made, each, 0.0) for each in v]
    joint = np.empty((41, 101))
    for i, x in enumerate(grid):
        phi = np.asarray(quadratic(jnp.asarray([x, truth[1]])))
        var = seen.flux_err[0] ** 2 + layer.scatter + phi @ layer.spread @ phi / layer.scale
        for j, w in enumerate(weights):
            joint[i, j] = -0.5 * (((seen.flux[0] - w @ phi) ** 2 / var)[edge].sum() + (v[j] / 8.0) ** 2)
            joint[i, j] -= 0.5 * np.log(var[edge]).sum()
    brute = np.exp(joint - joint.max()).sum(axis=1)
    told = np.array([float(emulator.log_likelihood(jnp.asarray([x, truth[1]]), star)) for x in grid])
    packed = np.exp(told - told.max())
    mean, sd = moments_of(grid, brute)
    mean_packed, sd_packed = moments_of(grid, packed)
    assert abs(mean - mean_packed) < 0.05 * sd
    assert abs(sd_packed / sd - 1) < 0.03


def _usable(emulator, seen):
    from hbcal.emulator.nuisances import _Mover

    return _Mover(emulator, seen.flux, seen.flux_err).flux[0]


def moments_of(grid, weight):
    p = weight / weight.sum()
    mean = p @ grid
    return mean, np.sqrt(p @ (grid - mean) ** 2)


def test_labels_and_nuisances_are_recovered_with_their_errors(found, drawn):
    seen, truth = drawn
    told = summary(found, seen.labels, seen.labels_err)
    for name in ("teff", "fe_h", "joint"):
        assert within(told[name]["within_68"], 0.683), told
        assert within(told[name]["within_95"], 0.95), told
    z = (found["nuisance_value"].to_numpy() - truth) / found["nuisance_sd"].to_numpy()
    for k, name in enumerate(found["nuisance"].to_numpy()):
        assert within((np.abs(z[:, k]) < 1).mean(), erf(0.5**0.5)), name
    assert found["nuisance"].to_numpy().tolist() == [
        "continuum_0_0", "continuum_0_1", "continuum_1_0", "continuum_1_1", "velocity", "broadening",
    ]  # fmt: skip
    assert found["flag"].to_numpy().mean() < 0.1


def test_lines_sharper_than_in_training_are_a_misfit(trained):
    """There is no negative broadening, and nothing else that explains such lines."""
    found = label_spectra(trained, observe(40, 6, broadening=-100.0), fast=True, nuisances=WHAT)
    assert (found["nuisance_value"].to_numpy() >= 0)[:, -1].all()
    assert np.mean(["misfit" in reason for reason in found["reason"].to_numpy().tolist()]) > 0.9


def test_labels_without_nuisances_fail(trained, drawn):
    """The planted defect: the same spectra, taken as they are."""
    seen = drawn[0]
    told = summary(label_spectra(trained, seen, fast=True), seen.labels, seen.labels_err)
    assert told["joint"]["within_95"] < 0.5


def test_a_nuisance_without_width_is_none(trained, drawn):
    some = drawn[0].take(slice(20))
    none = label_spectra(trained, some, fast=True)
    zero = label_spectra(trained, some, fast=True, nuisances=Nuisances(continuum=2, continuum_sd=0.0))
    assert none.equals(zero)
    tiny = Nuisances(continuum=0, continuum_sd=1e-6, velocity=1e-4, broadening=1e-2)
    close = label_spectra(trained, some, fast=True, nuisances=tiny)
    sd = np.sqrt(np.einsum("sll->sl", none["covariance"].to_numpy()))
    assert np.abs((close["value"] - none["value"]).to_numpy() / sd).max() < 0.05


def test_a_shift_of_many_lines_is_found(trained):
    """Ten times the width of a line: far beyond what is linear."""
    seen = observe(20, 9, velocity=np.linspace(-300.0, 300.0, 20))
    found = label_spectra(trained, seen, fast=True, nuisances=Nuisances(velocity=150.0))
    off = (found["nuisance_value"].to_numpy()[:, 0] - np.linspace(-300.0, 300.0, 20)) / found["nuisance_sd"].to_numpy()[
        :, 0
    ]
    assert np.abs(off).max() < 4
    assert (np.abs(found["value"].to_numpy() - seen.labels) < 0.3 * UNIT).all()


def test_extinction_is_integrated_out(trained, tmp_path):
    """A curve that bends the two stretches apart, mag by mag."""
    curve = -0.4 * np.log(10.0) * (WAVE / 5500.0) ** -1.6
    np.savez(tmp_path / "dust.npz", wave=WAVE, basis=curve, sd=0.5, names="A_V")
    dust, spectra = 0.5 * np.random.default_rng(0).normal(size=N), observe(N, 31)
    level = np.exp(dust[:, None] * curve)
    seen = replace(spectra, flux=spectra.flux * level, flux_err=spectra.flux_err * level)
    what = Nuisances(basis=str(tmp_path / "dust.npz"))
    found = label_spectra(trained, seen, fast=True, nuisances=what)
    assert found["nuisance"].to_numpy().tolist() == ["A_V"]
    told = summary(found, seen.labels, seen.labels_err)
    for name in ("teff", "fe_h", "joint"):
        assert within(told[name]["within_68"], 0.683)
        assert within(told[name]["within_95"], 0.95)
    z = (found["nuisance_value"].to_numpy()[:, 0] - dust) / found["nuisance_sd"].to_numpy()[:, 0]
    assert within((np.abs(z) < 1.0).mean(), 0.683)
    assert float(found["flag"].mean()) < 0.05
    without = label_spectra(trained, seen, fast=True)  # planted: dust forgotten
    assert float(without["flag"].mean()) > 0.5
    both = label_spectra(trained, seen, fast=True, nuisances=replace(what, continuum=0, continuum_sd=0.01))
    assert both["nuisance"].to_numpy().tolist() == ["continuum_0_0", "continuum_1_0", "A_V"]


@pytest.mark.parametrize("dust", [-3.0, 5.0])
def test_much_extinction_is_found(trained, tmp_path, dust):
    curve = -0.4 * np.log(10.0) * (WAVE / 5500.0) ** -1.6
    np.savez(tmp_path / "dust.npz", wave=WAVE, basis=curve, sd=3.0)
    level, spectra = np.exp(dust * curve), observe(64, 32)
    seen = replace(spectra, flux=spectra.flux * level, flux_err=spectra.flux_err * level)
    found = label_spectra(trained, seen, fast=True, nuisances=Nuisances(basis=str(tmp_path / "dust.npz")))
    z = (found["nuisance_value"].to_numpy()[:, 0] - dust) / found["nuisance_sd"].to_numpy()[:, 0]
    assert np.abs(z).max() < 4.5
    assert within((np.abs(z) < 1.0).mean(), 0.683, 64)
    assert within(summary(found, seen.labels, seen.labels_err)["joint"]["within_95"], 0.95, 64)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [({"wave": WAVE, "basis": WAVE}, "lacks the array.s. 'sd'"),
     ({"wave": WAVE, "basis": WAVE[:5], "sd": 1.0}, "do not fit together"),
     ({"wave": WAVE, "basis": WAVE, "sd": [1.0, 2.0]}, "do not fit together"),
     ({"wave": WAVE, "basis": WAVE, "sd": 0.0}, "every sd positive"),
     ({"wave": WAVE, "basis": np.nan * WAVE, "sd": 1.0}, "must be finite"),
     ({"wave": WAVE[1:], "basis": WAVE[1:], "sd": 1.0}, "cover those of the emulator, 5000 to 5640"),
     ({"wave": WAVE, "basis": WAVE, "sd": 1.0, "names": "velocity"}, "there twice or of other nuisances"),
     ({"wave": WAVE, "basis": np.c_[WAVE, WAVE], "sd": [1.0, 1.0], "names": ["a", "a"]}, "there twice or of other"),
     ({"wave": WAVE, "basis": WAVE.astype(str), "sd": 1.0}, "")],
)  # fmt: skip
def test_shapes_that_are_none_are_refused(trained, tmp_path, arrays, said):
    np.savez(tmp_path / "shapes.npz", **arrays)
    what = Nuisances(basis=str(tmp_path / "shapes.npz"))
    if not said:  # numbers as text are numbers
        assert with_nuisances(trained, what).names == ("basis_0",)
        return
    with pytest.raises(HbcalError, match=said):
        with_nuisances(trained, what)
    (tmp_path / "shapes.npz").write_bytes(b"no zip")
    with pytest.raises(HbcalError, match=r"cannot be read as an \.npz of shapes"):
        with_nuisances(trained, what)


@pytest.mark.slow
def test_nuts_says_the_same(trained, drawn, found, monkeypatch):
    monkeypatch.setattr(job, "BATCH", 32)
    full = label_spectra(trained, drawn[0].take(slice(32)), nuisances=WHAT, settings=ManySettings(draws=120))
    sd = np.sqrt(np.einsum("sll->sl", found["covariance"].to_numpy()[:32]))
    assert abs(((full["value"].to_numpy() - found["value"].to_numpy()[:32]) / sd).mean()) < 0.12
    assert (full["r_hat"] < 1.15).all()
    ratio = full["nuisance_sd"].to_numpy() / found["nuisance_sd"].to_numpy()[:32]
    assert abs(np.log(ratio).mean()) < 0.05


def test_missing_pixels_and_empty_spectra(trained, drawn):
    seen = drawn[0].take(slice(3))
    flux = seen.flux.copy()
    flux[0], flux[1, 40:60] = np.nan, np.nan
    found = label_spectra(trained, replace(seen, flux=flux), fast=True, nuisances=WHAT)
    assert found["reason"].to_numpy()[0] == "missing pixels"
    assert np.isnan(found["nuisance_value"].to_numpy()[0]).all()
    assert np.isfinite(found["value"].to_numpy()[1:]).all()


def test_what_cannot_be_is_said(trained, tiny_emulator):
    with pytest.raises(HbcalError, match="independent pixels"):
        with_nuisances(tiny_emulator, WHAT)
    with pytest.raises(HbcalError, match="not all positive"):
        with_nuisances(replace(trained, known=replace(trained.known, wave=WAVE - 5000.0)), WHAT)
    with pytest.raises(HbcalError, match="velocity of a nuisance is -1"):
        Nuisances(velocity=-1.0)
    with pytest.raises(HbcalError, match="degree is 30"):
        Nuisances(continuum=30)
    assert isinstance(with_nuisances(trained, WHAT), NuisanceEmulator)
