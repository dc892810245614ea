"""Labels of resampled spectra: neighbouring pixels share noise, and posteriors have to know."""

from dataclasses import replace

import numpy as np
import pytest

from hbcal.cli import main
from hbcal.emulator.nuisances import Nuisances
from hbcal.label import label_spectra
from hbcal.numerics.banded import smooth_err
from hbcal.numerics.linear_maps import covariance_of
from hbcal.numerics.packed_spectrum import pack_spectra
from hbcal.spectra.container import as_spectra, read_spectra, write_spectra
from hbcal.spectra.convert import Steps, convert, prepare
from hbcal.spectra.formats import read_any
from hbcal.spectra.pixels import at
from hbcal.spectra.store import open_store
from hbcal.training import train_emulator

N_PIX, ERR = 160, 0.05
TRUE = np.arange(5000.0, 5000.0 + N_PIX)


def sky(rng, n, wave, err):
    """Spectra with lines whose depths follow two labels."""
    x = rng.uniform(-1.0, 1.0, (n, 2))
    line = lambda at: np.exp(-0.5 * ((wave - at) / 4.0) ** 2)  # noqa: E731
    depth = 0.4 + 0.2 * x[:, :1] + 0.05 * x[:, :1] * x[:, 1:]
    flux = 1.0 - depth * (line(5030) + 0.5 * line(5100)) - (0.3 + 0.2 * x[:, 1:]) * (line(5060) + 0.7 * line(5130))
    found = {
        "wave": wave, "flux": flux + err * rng.normal(size=flux.shape), "flux_err": np.full(flux.shape, err),
        "star": [f"s{i}" for i in range(n)], "labels": x, "labels_err": np.zeros_like(x), "label_names": ["teff", "m"],
    }  # fmt: skip
    return as_spectra(found, "here")


@pytest.fixture(scope="module", name="emulator")
def _emulator(tmp_path_factory):
    out = tmp_path_factory.mktemp("resampled") / "model"
    return train_emulator(sky(np.random.default_rng(0), 900, TRUE, 0.02), out, method="quadratic", noise="independent")


@pytest.fixture(scope="module", name="moved")
def _moved():
    """Half a pixel away, and brought onto the emulator's."""
    return prepare(sky(np.random.default_rng(1), 1200, np.arange(4998.5, 5000.0 + N_PIX + 1), ERR), Steps(wave=TRUE))


def held(found, spectra):
    """Shares of the stars whose labels lie in 68.3% intervals and 95% regions."""
    off = found["value"].to_numpy() - spectra.labels
    cov = found["covariance"].to_numpy()
    z = off / np.sqrt(np.einsum("sll->sl", cov))
    joint = np.einsum("sl,slm,sm->s", off, np.linalg.inv(cov), off)
    return (np.abs(z) < 1.0).mean(), (joint < 5.99).mean(), float(found["chi2"].median())


@pytest.mark.parametrize("nuisances", [Nuisances(), Nuisances(continuum=1)])
def test_intervals_hold_and_without_correlations_they_do_not(emulator, moved, nuisances):
    some = moved.take(slice(300 if nuisances.some else None))
    told = label_spectra(emulator, some, fast=True, nuisances=nuisances)
    within, joint, chi2 = held(told, some)
    noise = np.sqrt(0.25 / len(some.star))
    assert abs(within - 0.683) < 4 * noise
    assert abs(joint - 0.95) < 2 * noise
    assert 0.4 < chi2 < 1.05  # pixels' errors are as large as smooth features see them
    forgetful = replace(some, flux_corr=np.empty((*some.flux.shape, 0)))
    within, joint, _ = held(label_spectra(emulator, forgetful, fast=True, nuisances=nuisances), some)
    assert within < 0.683 - 4 * noise
    assert joint < 0.9  # the planted defect: as many shares of noise as pixels


def test_spectra_as_they_are_have_independent_noise(emulator):
    some = sky(np.random.default_rng(2), 600, TRUE, ERR)
    assert prepare(some, Steps(wave=TRUE)).flux_corr.shape == (600, N_PIX, 0)
    within, joint, _ = held(label_spectra(emulator, some, fast=True), some)
    assert abs(within - 0.683) < 0.06
    assert abs(joint - 0.95) < 0.03


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_correlations_live_in_the_file(tmp_path, moved, suffix):
    """Converted and read."""
    raw = sky(np.random.default_rng(1), 3, np.arange(4998.5, 5000.0 + N_PIX + 1), ERR)
    write_spectra(raw, tmp_path / "raw.npz")
    assert convert([tmp_path / "raw.npz"], tmp_path / f"b{suffix}", steps=Steps(wave=TRUE)) == (3, 0, 0)
    found = read_any([tmp_path / f"b{suffix}"])
    np.testing.assert_array_equal(found.flux_corr, prepare(raw, Steps(wave=TRUE)).flux_corr)
    assert abs(found.flux_corr[:, 5:50, 0] - 0.5).max() < 1e-6
    assert read_spectra([tmp_path / f"b{suffix}"]).take(slice(1)).flux_corr.shape[0] == 1


@pytest.mark.parametrize(("power", "said"), [("500", True), ("4990", False)])  # many pixels, and far less than one
def test_too_wide_correlations_are_told(tmp_path, monkeypatch, capsys, power, said):
    write_spectra(sky(np.random.default_rng(1), 3, TRUE, ERR), tmp_path / "raw.npz")
    command = f"hbcal spectra convert {tmp_path}/raw.npz --out {tmp_path}/b.npz --resolution-from 5000 --resolution-to"
    monkeypatch.setattr("sys.argv", [*command.split(), power])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    told = "noise of 3 star(s) goes together over more than 12 pixels" in capsys.readouterr().out
    assert told == said
    assert not read_spectra([tmp_path / "b.npz"]).flux_corr.shape[2]


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
@pytest.mark.parametrize("first", [0, 1])
def test_files_on_and_off_the_grid_go_into_one(tmp_path, monkeypatch, suffix, first):
    """Whichever comes first: what is on the grid has no correlations, what is not has some."""
    monkeypatch.setattr("hbcal.spectra.container.N_BATCH", 1)
    on, off = (sky(np.random.default_rng(k), 3, TRUE + shift, ERR) for k, shift in ((0, 0.0), (1, 0.5)))
    write_spectra(on, tmp_path / "0.npz")
    write_spectra(replace(off, star=np.array(["x", "y", "z"])), tmp_path / "1.npz")
    files = [tmp_path / f"{k}.npz" for k in (first, 1 - first)]
    assert convert(files, tmp_path / f"all{suffix}", steps=Steps(wave=TRUE)) == (6, 0, 0)
    corr = read_spectra([tmp_path / f"all{suffix}"]).flux_corr[:, 50:60, 0]
    np.testing.assert_allclose(corr, np.repeat([0.0, 0.5], 3)[:: 1 - 2 * first, None] * np.ones(10), atol=1e-6)
    convert([files[first]], tmp_path / f"on{suffix}", steps=Steps(wave=TRUE))
    with open_store(tmp_path / f"on{suffix}") as store:
        assert "flux_corr" not in store


@pytest.mark.parametrize("big", [10.0, 1e3, 3e3, 1e5, 1e8])
@pytest.mark.parametrize(("ratio", "every"), [(1.5, 1), (2.0, 2), (3.0, 3)])
def test_one_bad_pixel_breaks_nothing(tmp_path, emulator, big, ratio, every):
    """It dominates its neighbours far beyond the band that the others ask for."""
    one = sky(np.random.default_rng(4), 2, TRUE, ERR)
    one.flux_err[0, 77] *= big
    made = prepare(one, Steps(wave=TRUE[::every], powers=(2500.0, 2500.0 / ratio)))
    assert made.flux_corr.shape[2] > 2
    write_spectra(made, tmp_path / "a.npz")
    assert len(read_spectra([tmp_path / "a.npz"]).star) == 2
    layer = replace(emulator.layer, **{
        name: getattr(emulator.layer, name)[::every] for name in ("weights", "scatter", "scale")
    })  # fmt: skip
    packed = pack_spectra(layer, made.flux, smooth_err(made.flux_corr, made.flux_err))
    assert np.isfinite(packed.series).all()


def test_what_fills_a_batch_packs_to_zeros(emulator):
    none, corr = np.full((1, N_PIX), np.nan), np.zeros((1, N_PIX, 2))
    assert not np.any(emulator.read(none, none, None, corr)[0].packed.series)


def test_pixels_farther_apart_share_what_they_shared(moved):
    rows = np.array([3, 5, 6, 9])
    kept = at(moved, TRUE[rows])
    for i in (0, 7):
        whole = covariance_of(np.ones(N_PIX), moved.flux_corr[i].astype(float)).toarray()
        part = covariance_of(np.ones(4), kept.flux_corr[i].astype(float)).toarray()
        np.testing.assert_allclose(part, whole[np.ix_(rows, rows)])
    with pytest.raises(ValueError, match="flux_corr is of"):
        replace(moved, flux=moved.flux[:, :5])
