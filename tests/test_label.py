"""Labels of spectra whose truth is known: coverage, both ways of sampling, flags, order, and a kill."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binom

import hbcal.label
import hbcal.labelling
from hbcal import HbcalError
from hbcal.catalogue.read import sha256
from hbcal.emulator.files import load_emulator, save_emulator
from hbcal.evaluation import summary
from hbcal.infer.many import ManySettings
from hbcal.label import label_spectra
from hbcal.labelling import iter_reasons, label_files
from hbcal.spectra.container import write_spectra

N = 600


@pytest.fixture(scope="module")
def fresh(tiny_spectra):
    """Spectra of stars that the emulator has not seen."""
    return tiny_spectra(N, 6)


@pytest.fixture(scope="module")
def labelled(tiny_emulator, fresh):
    return label_spectra(tiny_emulator, fresh, fast=True)


def within(share, probability, n=N):
    """Whether a share of n is what a probability gives, by a two-sided test of one in a thousand."""
    low, high = binom.interval(0.999, n, probability)
    return low / n <= share <= high / n


def test_intervals_hold_what_they_claim(labelled, fresh):
    told = summary(labelled, fresh.labels, fresh.labels_err)
    for name in ("teff", "fe_h", "joint"):
        assert within(told[name]["within_68"], 0.683)
        assert within(told[name]["within_95"], 0.95)


def test_a_planted_error_of_the_covariance_is_caught(labelled, fresh):
    sure = labelled.assign(covariance=labelled["covariance"] / 1.5)
    told = summary(sure, fresh.labels, fresh.labels_err)
    assert not within(told["teff"]["within_68"], 0.683)
    assert not within(told["joint"]["within_95"], 0.95)


def test_nuts_and_weighted_draws_say_the_same(tiny_emulator, fresh, labelled):
    some = fresh.take(slice(64))
    full = label_spectra(tiny_emulator, some, settings=ManySettings(draws=200))
    sd = np.sqrt(np.einsum("sll->sl", labelled["covariance"].to_numpy()[:64]))
    apart = (full["value"].to_numpy() - labelled["value"].to_numpy()[:64]) / sd
    assert np.abs(apart).max() < 0.8  # about 30 effective draws of each star: an error of 0.18 sd, 128 times
    assert abs(apart.mean()) < 0.06
    ratio = np.einsum("sll->sl", full["covariance"].to_numpy()) / sd**2
    assert abs(np.log(ratio).mean()) < 0.1
    assert (full["r_hat"] < 1.05).all()
    assert float(full["ess_bulk"].min()) > 200
    assert full["reason"].to_numpy().tolist() == labelled["reason"].to_numpy()[:64].tolist()


def test_draws_of_both_ways_have_one_form(tiny_emulator, fresh, labelled):
    some = fresh.take(np.arange(128))
    some.flux[5] = np.nan
    fast, told, full = (
        label_spectra(tiny_emulator, some, fast=fast, keep_draws=True, **more)
        for fast, more in ((True, {}), (True, {"weighted": True}), (False, {"settings": ManySettings(draws=100)}))
    )
    assert "weight" not in fast
    assert "weight" not in full
    assert fast["draws"].dims == full["draws"].dims
    ok = np.arange(128) != 5
    assert np.isnan(fast["draws"].to_numpy()[5]).all()
    share, known = told["weight"].to_numpy()[ok], told["draws"].to_numpy()[ok]
    sd = np.sqrt(np.einsum("sll->sl", told["covariance"].to_numpy()[ok]))
    mean = np.einsum("sd,sdl->sl", share, known)
    assert np.abs((fast["draws"].to_numpy()[ok].mean(axis=1) - mean) / sd).max() < 0.2
    spread = fast["draws"].to_numpy()[ok].std(axis=1) / sd
    assert abs(np.log(spread).mean()) < 0.02
    plain = known.std(axis=1) / sd  # planted: the weights forgotten
    assert abs(np.log(plain).mean()) > 0.1


def test_spectra_that_are_none_are_flagged(tiny_emulator, fresh, labelled):
    rng, flux = np.random.default_rng(0), fresh.flux[:100]
    odd = {
        "noise": np.abs(rng.normal(1.0, 0.5, flux.shape)), "flat": np.ones(flux.shape), "turned": flux[:, ::-1],
        "hotter than any": tiny_like(flux, 8.0),
    }  # fmt: skip
    for name, planted in odd.items():
        found = label_spectra(tiny_emulator, replace(fresh.take(slice(100)), flux=planted), fast=True)
        assert found["flag"].to_numpy().mean() > 0.97, name
    assert labelled["flag"].to_numpy().mean() < 0.05


def tiny_like(flux, power):
    """Spectra far beyond the training stars, in the direction of their own scatter."""
    median = np.median(flux, axis=0)
    return np.abs(median + power * (flux - median))


def test_a_missing_pixel_leaves_that_star_without_an_answer(tiny_emulator, fresh, labelled):
    flux = fresh.flux.copy()
    flux[3, 2] = np.nan
    found = label_spectra(tiny_emulator, replace(fresh, flux=flux), fast=True)
    assert found["reason"].to_numpy()[3] == "missing pixels"
    assert np.isnan(found["value"].to_numpy()[3]).all()
    others = np.arange(N) != 3
    np.testing.assert_array_equal(found["value"].to_numpy()[others], labelled["value"].to_numpy()[others])


def test_noise_around_zero_is_the_largest_misfit_not_a_missing_pixel(tiny_emulator, fresh, labelled):
    flux = fresh.flux.copy()
    flux[3] = np.linspace(-1.0, 0.9, flux.shape[1])
    found = label_spectra(tiny_emulator, replace(fresh, flux=flux), fast=True)
    assert found["reason"].to_numpy()[3] == "no light"
    assert found["flag"].to_numpy()[3]
    assert found["misfit_rank"].to_numpy()[3] == 1.0
    assert found["chi2"].to_numpy()[3] == np.inf
    assert np.isnan(found["value"].to_numpy()[3]).all()
    others = np.arange(N) != 3
    np.testing.assert_array_equal(found["misfit_rank"].to_numpy()[others], labelled["misfit_rank"].to_numpy()[others])


@pytest.mark.parametrize(
    ("label", "unit"),
    [
        ("teff", "K"),
        ("TEFF", "K"),
        ("prot", ""),
        ("mg_fe", "dex"),
        ("vmicro", "km/s"),
        ("Vsini", "km/s"),
        ("Mg", "dex"),
        ("A_V", "mag"),
        ("age", ""),
    ],
)
def test_labels_have_their_units_however_they_are_spelt(tiny_emulator, fresh, label, unit):
    known = replace(tiny_emulator.known, label_names=(label, "fe_h"))
    found = label_spectra(replace(tiny_emulator, known=known), fresh.take(slice(3)), fast=True)
    assert found.attrs["units"] == f"{unit}, dex"


def test_other_wavelengths_are_refused(tiny_emulator, fresh):
    with pytest.raises(HbcalError, match="resample them onto its grid"):
        label_spectra(tiny_emulator, replace(fresh, wave=fresh.wave + 0.5))


def test_an_emulator_read_back_labels_the_same(tiny_emulator, fresh, labelled, tmp_path):
    save_emulator(tiny_emulator, tmp_path / "model", {})
    again = label_spectra(load_emulator(tmp_path / "model"), fresh, fast=True)
    assert again.equals(labelled)


@pytest.fixture
def files(tiny_emulator, tiny_spectra, tmp_path, monkeypatch):
    """An emulator and two files of spectra; small pieces."""
    save_emulator(tiny_emulator, tmp_path / "model", {})
    for k in (6, 7):
        write_spectra(tiny_spectra(N, k), tmp_path / f"{k}.npz")
    return tmp_path


def test_files_are_labelled_in_their_order(files, labelled):
    told = label_files(files / "model", [files / "6.npz", files / "7.npz"], files / "out.nc", fast=True)
    found = xr.load_dataset(files / "out.nc", engine="h5netcdf")
    assert found["star"].to_numpy()[[0, N - 1, N, -1]].tolist() == ["s6_0", f"s6_{N - 1}", "s7_0", f"s7_{N - 1}"]
    assert found["value"].dims == ("star", "label")
    assert (told.n_star, told.n_flagged) == (2 * N, int(found["flag"].sum()))
    assert told.reasons == tuple(iter_reasons(found))
    assert not list(files.glob("*.pieces")) + list(files.glob("*.part"))


def test_pieces_joined_on_disk_are_what_they_are_in_memory(tiny_emulator, tiny_spectra, tmp_path, monkeypatch):
    monkeypatch.setattr(hbcal.labelling, "PIECE", 32)
    monkeypatch.setattr(hbcal.labelling, "_clear", lambda pieces: None)  # the pieces stay
    save_emulator(tiny_emulator, tmp_path / "emulator", {})
    some = tiny_spectra(N, 6).take(np.arange(100))
    some.flux[40, 2] = np.nan  # no answer, and a reason longer than those of the first piece
    write_spectra(some, tmp_path / "6.npz")
    out = tmp_path / "out.nc"
    told = label_files(tmp_path / "emulator", [tmp_path / "6.npz"], out, fast=True, keep_draws=True)
    pieces = sorted((tmp_path / ".out.nc.pieces").glob("*.nc"))
    each = [xr.load_dataset(path, engine="h5netcdf") for path in pieces]
    found = xr.load_dataset(out, engine="h5netcdf")
    assert len(pieces) == 4
    assert found.equals(xr.concat(each, "star", data_vars="minimal"))
    assert "1 missing pixels" in told.reasons
    attrs = {name: value for name, value in found.attrs.items() if name not in ("hbcal", "method", "units")}
    hbcal.labelling._join(pieces, attrs | {"seed": 0}, tmp_path / "again.nc")
    assert (tmp_path / "again.nc").read_bytes() == out.read_bytes()


def test_a_star_in_two_files_is_refused(files):
    with pytest.raises(HbcalError, match="600 star"):
        label_files(files / "model", [files / "6.npz", files / "6.npz"], files / "out.nc", fast=True)


def test_an_emulator_that_failed_says_so_in_its_labels(files, tiny_emulator):
    why = "68.3% intervals of teff hold 40% of 900 stars"
    save_emulator(tiny_emulator, files / "narrow", {"failures": [why]})
    said = []
    label_files(files / "narrow", [files / "6.npz"], files / "out.nc", fast=True, progress=said.append)
    assert any("failed its own test" in text and why in text for text in said)
    assert xr.load_dataset(files / "out.nc", engine="h5netcdf").attrs["emulator_failures"] == why
    label_files(files / "model", [files / "6.npz"], files / "well.nc", fast=True, progress=said.append)
    assert xr.load_dataset(files / "well.nc", engine="h5netcdf").attrs["emulator_failures"] == ""


def test_two_labellings_of_one_file_do_not_meet(files):
    def again(text):
        with pytest.raises(HbcalError, match="in use by a running"):
            label_files(files / "model", [files / "6.npz"], files / "out.nc", fast=True, resume=True)
        with pytest.raises(HbcalError, match="in use by a running"):
            label_files(files / "model", [files / "6.npz"], files / "out.nc", fast=True, overwrite=True)

    assert label_files(files / "model", [files / "6.npz"], files / "out.nc", fast=True, progress=again).n_star == N


def test_what_was_killed_before_it_cleared_up_is_finished(files, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(hbcal.labelling, "_clear", lambda pieces: None)
        label_files(files / "model", [files / "6.npz"], files / "out.nc", fast=True)
    label_files(files / "model", [files / "6.npz"], files / "out.nc", fast=True, resume=True)
    assert not (files / ".out.nc.pieces").exists()
    assert xr.load_dataset(files / "out.nc", engine="h5netcdf").sizes["star"] == N


def test_a_file_that_is_mended_keeps_the_pieces_before(files, tiny_spectra, monkeypatch):
    monkeypatch.setattr(hbcal.labelling, "PIECE", 200)
    monkeypatch.setattr("hbcal.spectra.formats.N_PIECE", 100)
    right = tiny_spectra(N, 9)
    wrong = replace(right, flux_err=right.flux_err.copy())
    wrong.flux_err[N - 1, 2] = -1.0
    np.savez(files / "9.npz", **vars(wrong))
    with pytest.raises(HbcalError, match="negative"):
        label_files(files / "model", [files / "9.npz"], files / "out.nc", fast=True)
    pieces = sorted((files / ".out.nc.pieces").glob("*.nc"))
    before = [path.stat().st_mtime_ns for path in pieces]
    assert len(pieces) == N // 200 - 1
    np.savez(files / "9.npz", **vars(right))

    def look(text):
        if text.endswith(f" {N} spectra"):
            assert [path.stat().st_mtime_ns for path in pieces] == before

    label_files(files / "model", [files / "9.npz"], files / "out.nc", fast=True, resume=True, progress=look)
    found = xr.load_dataset(files / "out.nc", engine="h5netcdf")
    assert found.sizes["star"] == N
    assert "spectra_sha256" not in found.attrs


def test_what_columns_beside_are_called_counts(tiny_spectra):
    spectra = replace(tiny_spectra(9, 3), meta=np.ones((9, 2)), meta_names=("j", "h"))
    assert hbcal.labelling._digest(spectra) != hbcal.labelling._digest(replace(spectra, meta_names=("h", "j")))


def test_files_with_and_without_labels_go_together(files, tiny_spectra):
    bare = replace(tiny_spectra(N, 8), labels=np.empty((N, 0)), labels_err=np.empty((N, 0)), label_names=())
    write_spectra(bare, files / "8.npz")
    assert label_files(files / "model", [files / "6.npz", files / "8.npz"], files / "out.nc", fast=True).n_star == 2 * N


KILLED = """
import sys, os, hbcal.labelling as job
from pathlib import Path
job.PIECE = 200
home = Path(sys.argv[1])
os.chdir(home)
def die(text):
    print(text, flush=True)
    if len(sys.argv) > 2 and text.endswith(" 400 spectra"):
        os.kill(os.getpid(), 9)
job.label_files(home / "model", [home / "6.npz", home / "7.npz"], home / "out.nc", fast=True, resume=True, progress=die)
"""


def test_a_labelling_that_was_killed_goes_on(files, tmp_path):
    def run(*more):
        command = [sys.executable, "-c", KILLED, str(files), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("die").returncode == -9
    assert not (files / "out.nc").exists()
    begun = time.time()
    again = run()
    assert again.returncode == 0, again.stderr
    found = xr.load_dataset(files / "out.nc", engine="h5netcdf")
    assert min(p.stat().st_mtime for p in files.glob("out.nc")) > begun
    (files / "out.nc").unlink()
    assert run().returncode == 0
    whole = xr.load_dataset(files / "out.nc", engine="h5netcdf")
    assert found["value"].equals(whole["value"])
    assert found["covariance"].equals(whole["covariance"])


def test_a_labelling_that_has_begun_is_not_thrown_away(files):
    hidden = files / ".out.nc.pieces"
    hidden.mkdir()
    (hidden / "mark.json").write_text("{}")
    with pytest.raises(HbcalError, match="--resume"):
        label_files(files / "model", [files / "6.npz"], files / "out.nc", fast=True)
    with pytest.raises(HbcalError, match="had another"):
        label_files(files / "model", [files / "6.npz"], files / "out.nc", fast=True, resume=True)


def test_an_overwriting_that_was_interrupted_goes_on(files):
    def stop(text):
        raise KeyboardInterrupt

    (files / "out.nc").write_text("an older file")
    again = {"fast": True, "overwrite": True, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        label_files(files / "model", [files / "6.npz"], files / "out.nc", **again, progress=stop)
    pieces = sorted((files / ".out.nc.pieces").glob("*"))
    before = [path.stat().st_mtime_ns for path in pieces]
    assert len(pieces) > 1
    with pytest.raises(KeyboardInterrupt):
        label_files(files / "model", [files / "6.npz"], files / "out.nc", **again, progress=stop)
    assert [path.stat().st_mtime_ns for path in pieces] == before
    label_files(files / "model", [files / "6.npz"], files / "out.nc", **again)
    found = xr.load_dataset(files / "out.nc", engine="h5netcdf")
    assert found.sizes["star"] == 600
    assert found.attrs["emulator_sha256"] == sha256(files / "model" / "model.safetensors")


def test_rounds_settle_stars_that_a_poor_guess_does_not(tiny_emulator, fresh, monkeypatch):
    real = hbcal.label._guess

    def poor(*given):
        centre, root = real(*given)
        return centre + 2.0 * root.sum(-1), 0.5 * root

    monkeypatch.setattr(hbcal.label, "_guess", poor)
    some = fresh.take(slice(200))
    settled = label_spectra(tiny_emulator, some, fast=True)
    monkeypatch.setattr(hbcal.label, "ROUNDS", 1)
    left = label_spectra(tiny_emulator, some, fast=True)
    count = lambda found: int((found["k_hat"] > 0.7).sum())  # noqa: E731
    assert count(left) > 100  # the defect: a single round from there
    assert count(settled) < 10


@pytest.mark.slow
def test_chains_that_move_slowly_are_made_longer(tiny_emulator, fresh, monkeypatch):
    some, lazy = fresh.take(slice(40)), ManySettings(draws=120, jumps=0, max_tree_depth=1)
    more = label_spectra(tiny_emulator, some, settings=lazy)
    monkeypatch.setattr(hbcal.label, "SLOW", 0.0)
    few = label_spectra(tiny_emulator, some, settings=lazy)
    least = lambda found: found["ess_bulk"].min("label").to_numpy()  # noqa: E731
    slow = least(few) < 0.5 * 480
    assert slow.sum() > 20  # the defect
    assert np.median(least(more)[slow]) > 1.4 * np.median(least(few)[slow])
    np.testing.assert_array_equal(more["value"][~slow], few["value"][~slow])
    sd = np.sqrt(np.einsum("sll->sl", few["covariance"].to_numpy()))
    far = np.abs(more["value"] - few["value"]).to_numpy() / sd
    assert np.median(far) < 0.2  # the same posterior: ESS of some 100 and 250 leave 0.08 sd at the median
