"""How wide posteriors have to be, told by stars that the emulator was not fitted to."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

import hbcal.unseen
from hbcal.emulator.base import sharing
from hbcal.label import label_spectra
from hbcal.numerics.intervals import distance
from hbcal.numerics.spread import fit_common_spread, fit_spread, loosened, signs
from hbcal.unseen import N_FOLD, labelled_apart, with_spread

N_LABEL = 6


def world(seed, n):
    """Posteriors of known truths, too narrow by a factor that grows with how far a star lies from the others."""
    rng = np.random.default_rng(seed)
    root = np.tril(0.4 * rng.normal(size=(n, N_LABEL, N_LABEL))) + np.eye(N_LABEL)
    extrapolation = rng.uniform(size=n)
    told = signs(rng.uniform(size=n), extrapolation, rng.normal(size=(n, N_LABEL)))
    wide = np.exp(0.3 + 0.25 * told[:, 2:3])
    apart = wide * np.einsum("slm,sm->sl", root, rng.normal(size=(n, N_LABEL)))
    return apart, root @ np.swapaxes(root, 1, 2), np.zeros_like(apart), told


def log_p(apart, cov, told, spread):
    factor = np.exp(told @ spread)
    wide = factor[:, :, None] * cov * factor[:, None, :]
    far = np.einsum("sl,sl->s", apart, np.linalg.solve(wide, apart[..., None])[..., 0])
    return -0.5 * (far + np.linalg.slogdet(wide)[1]).mean()


@pytest.fixture(scope="module")
def others():
    return world(1, 3000)


def test_factors_common_to_all_labels_are_told_by_few_stars(others):
    found = fit_common_spread(*world(0, 300))
    np.testing.assert_allclose(found[2], 0.25, atol=0.08)
    np.testing.assert_allclose(found[0], 0.3, atol=0.12)
    assert not found[3:].any()
    apart, cov, _, told = others
    sd = np.exp(told @ found) * np.sqrt(np.einsum("sll->sl", cov))
    assert abs((np.abs(apart) < sd).mean() - 0.683) < 0.03


def test_more_factors_than_few_stars_can_tell_are_worse_on_others(others):
    """What the common factors are for; both are better than none."""
    apart, cov, err, told = world(0, 100)
    each = fit_spread(apart / np.sqrt(np.einsum("sll->sl", cov)), told)
    common = fit_common_spread(apart, cov, err, told)
    apart, cov, _, told = others
    none = log_p(apart, cov, told, 0.0 * common)
    assert log_p(apart, cov, told, common) > log_p(apart, cov, told, each)
    assert log_p(apart, cov, told, common) > none + 0.3


def test_labels_that_are_not_known_do_not_count():
    apart, cov, err, told = world(2, 300)
    apart[:150, 0] = np.nan
    found = fit_common_spread(apart, cov, err, told)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], 0.3, atol=0.15)
    assert not fit_common_spread(apart, np.full_like(cov, np.nan), err, told).any()


def test_errors_of_the_known_labels_are_not_the_posterior_s():
    apart, cov, err, told = world(3, 2000)
    err = err + 2.0
    blurred = apart + err * np.random.default_rng(4).normal(size=apart.shape)
    np.testing.assert_allclose(
        fit_common_spread(blurred, cov, err, told)[0].mean(), fit_common_spread(apart, cov, 0.0 * err, told)[0].mean(),
        atol=0.06,
    )  # fmt: skip


def test_no_star_is_labelled_by_an_emulator_that_was_fitted_to_it(tiny_emulator, tiny_spectra, monkeypatch):
    emulator, spectra = tiny_emulator, tiny_spectra()
    seen, said = [], []

    def label(trained, held_out, **how):
        seen[-1]["held out"] = held_out.star
        return real(trained, held_out, **how)

    def fit(rows):
        seen.append({"fitted": spectra.star[rows]})
        return emulator

    real = hbcal.unseen.label_spectra
    monkeypatch.setattr("hbcal.unseen.label_spectra", label)
    rows = np.arange(5, 48)
    found, at = labelled_apart(fit, spectra, rows, progress=said.append)
    assert len(seen) == len(said) <= N_FOLD
    assert len({len(each["fitted"]) for each in seen}) == 1  # one shape, compiled once
    for each in seen:
        assert not set(each["fitted"]) & set(each["held out"])
    np.testing.assert_array_equal(found["star"], at.star)
    assert sorted(at.star) == sorted(spectra.star[rows])


TORN = {
    "empty": lambda whole: b"",
    "no zip": lambda whole: b"labels",
    "cut": lambda whole: whole[: len(whole) // 2],
    "full of zeros": lambda whole: whole[:9000] + bytes(len(whole) - 18000) + whole[-9000:],
}


def test_labels_that_are_kept_are_not_told_again(tiny_emulator, tiny_spectra, tmp_path):
    fits, spectra, rows = [], tiny_spectra(), np.arange(5, 48)

    def fit(rows, most=N_FOLD):
        if len(fits) == most:
            raise KeyboardInterrupt
        fits.append(rows)
        return tiny_emulator

    def again():
        fits.clear()
        found, at = labelled_apart(fit, spectra, rows, folder=tmp_path)
        xr.testing.assert_identical(found, whole)
        np.testing.assert_array_equal(at.star, found["star"])
        return len(fits)

    whole, _ = labelled_apart(fit, spectra, rows)
    n = len(fits)
    fits.clear()
    with pytest.raises(KeyboardInterrupt):
        labelled_apart(lambda rows: fit(rows, 3), spectra, rows, folder=tmp_path)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 3
    assert again() == n - 3
    assert again() == 0
    good = kept[1].read_bytes()
    for tear in TORN.values():
        kept[1].write_bytes(tear(good))
        assert again() == 1
        assert kept[1].read_bytes() != tear(good)


def test_one_star_whose_weight_is_on_one_draw_does_not_decide_for_all(tiny_emulator, tiny_spectra):
    spectra = tiny_spectra(300, 6)
    exact = dataclasses.replace(spectra, labels_err=np.zeros_like(spectra.labels))
    found = label_spectra(tiny_emulator, exact, fast=True, keep_draws=True, weighted=True)
    fine = with_spread(tiny_emulator, found, exact).known
    flat = found.copy(deep=True)
    flat["covariance"][7] = 0.0
    flat["covariance"][8] = np.ones((2, 2))
    told = with_spread(tiny_emulator, flat, exact).known
    np.testing.assert_allclose(told.spread, fine.spread, atol=0.03)
    assert np.asarray(fine.spread)[0].any()


def test_joint_regions_hold_what_they_claim_where_correlations_are_not_borne_out(tiny_emulator, tiny_spectra):
    """Their width is chosen for the correlations that are kept, not for those that are given up."""
    spectra = tiny_spectra(600, 6)
    exact = dataclasses.replace(spectra, labels_err=np.zeros_like(spectra.labels))
    found = label_spectra(tiny_emulator, exact, fast=True, keep_draws=True, weighted=True)
    rng, unit = np.random.default_rng(8), np.asarray(tiny_emulator.known.unit)
    claimed = 0.01 * np.array([[1.0, 0.97], [0.97, 1.0]])
    off = 0.15 * rng.normal(size=(600, 2))  # 0.1 is claimed, and that labels go together
    found["value"][:] = exact.labels - off * unit
    found["covariance"][:] = claimed * unit[:, None] * unit
    drawn = rng.multivariate_normal(np.zeros(2), claimed, found["weight"].shape)
    found["draws"][:] = found["value"].to_numpy()[:, None] + drawn * unit
    found["weight"][:] = 1.0 / found.sizes["draw"]
    known = with_spread(tiny_emulator, found, exact).known
    assert float(known.kept) < 0.3
    told = signs(
        sharing(known.usual, found["chi2"].to_numpy()), found["extrapolation"].to_numpy(),
        (found["value"].to_numpy() - known.centre) / unit,
    )  # fmt: skip
    factor = np.exp(told @ np.asarray(known.spread))
    wide = loosened(factor[:, :, None] * claimed * factor[:, None, :], float(known.kept))
    assert abs((distance(off, wide) < 2.3).mean() - 0.683) < 0.04
