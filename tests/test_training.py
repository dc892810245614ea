"""From the command line: train, label, evaluate, end to end; a training that is killed; and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest

from hbcal import HbcalError, training
from hbcal.catalogue.read import sha256
from hbcal.cli import main
from hbcal.emulate import emulate
from hbcal.emulator.files import ABOUT, MODEL, about_emulator, load_emulator
from hbcal.emulator.train_network import NetworkSettings
from hbcal.evaluation import evaluate, summary
from hbcal.infer.many import ManySettings
from hbcal.label import as_trained, label_spectra
from hbcal.networks.train import TrainSettings
from hbcal.spectra.container import Spectra, as_spectra, read_spectra, write_spectra
from hbcal.spectra.convert import wave_of
from hbcal.spectra.pixels import within
from hbcal.training import CoverageWarning, train_emulator
from hbcal.training_stars import same_sky
from hbcal.unseen import labelled_apart

SMALL = NetworkSettings(n_dim=5, n_lead=2, n_net=2, hidden=16, train=TrainSettings(epochs=20, batch=64, every=2))


def hbcal_says(*words, monkeypatch):
    """Exit status of a command."""
    monkeypatch.setattr(sys, "argv", ["hbcal", *map(str, words)])
    try:
        main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_spectra):
    folder = tmp_path_factory.mktemp("spectra")
    write_spectra(tiny_spectra(400, 5), folder / "train.npz")
    write_spectra(replace(tiny_spectra(300, 6), labels_err=np.zeros((300, 2))), folder / "new.npz")
    return folder


def test_train_label_evaluate(home, monkeypatch, capsys):
    words = ("train", "emulator", home / "train.npz", "--out", home / "model", "--method", "quadratic")
    words += ("--noise", "correlated")
    assert hbcal_says(*words, monkeypatch=monkeypatch) == 0
    new = home / "some.npz"
    write_spectra(read_spectra([home / "new.npz"], labels=True).take(slice(128)), new)  # NUTS: a small batch
    assert hbcal_says("label", home / "model", new, "--out", home / "x.nc", monkeypatch=monkeypatch) == 0
    assert hbcal_says("evaluate", home / "x.nc", new, "--out", home / "report", monkeypatch=monkeypatch) == 0
    assert "128 spectra" in capsys.readouterr().out
    told = json.loads((home / "report" / "report.json").read_text())
    assert 0.58 < told["all"]["joint"]["within_68"] < 0.78
    assert {path.name for path in (home / "report").iterdir()} == {"report.json", "report.txt", "evaluation.png"}
    about = json.loads((home / "model" / ABOUT).read_text())
    assert about["n_star"] == {"fit": 340, "unseen": 40, "test": 20}
    assert set(about["test"]) == {"teff", "fe_h", "joint"}


def test_some_wavelengths_train_and_the_whole_spectrum_is_labelled(tiny_spectra, tmp_path, monkeypatch, capsys):
    """The emulator takes from spectra on a wider grid the pixels it knows."""
    train, fresh = tiny_spectra(400, 5), tiny_spectra(50, 6)
    low, high = train.wave[1], train.wave[4]
    write_spectra(train, tmp_path / "train.npz")
    words = ("train", "emulator", tmp_path / "train.npz", "--out", tmp_path / "model", "--method", "quadratic")
    words += ("--wave", f"{low},{high}", "--accept-failed")
    assert hbcal_says(*words, "--noise", "independent", monkeypatch=monkeypatch) == 2
    assert "4 pixels are too few for 6 features of 2 label(s)" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    assert hbcal_says(*words, "--noise", "correlated", monkeypatch=monkeypatch) == 0
    emulator = load_emulator(tmp_path / "model")
    np.testing.assert_array_equal(emulator.known.wave, train.wave[1:5])
    np.testing.assert_array_equal(wave_of(tmp_path / "model"), train.wave[1:5])
    whole = label_spectra(emulator, fresh, fast=True)
    cut = label_spectra(emulator, within(fresh, [(low, high)]), fast=True)
    np.testing.assert_array_equal(whole["value"], cut["value"])
    elsewhere = replace(fresh, flux=np.where(fresh.wave > high, np.nan, fresh.flux))
    np.testing.assert_array_equal(label_spectra(emulator, elsewhere, fast=True)["value"], whole["value"])


def test_pixels_that_many_lack_are_left_out_of_correlated_noise(tiny_spectra, tmp_path):
    train, said = tiny_spectra(400, 5), []
    train = replace(train, flux=train.flux.copy())
    train.flux[:60, 3], train.flux[:20, 4] = np.nan, np.nan
    emulator = train_emulator(
        train, tmp_path / "model", method="quadratic", noise="correlated", progress=said.append
    )  # fmt: skip
    assert len(emulator.known.wave) == len(train.wave) - 1
    assert f"left out: 1 of {len(train.wave)} pixels, which more than a tenth of the stars lack" in said
    assert "left out: 20, missing pixels" in said


def test_training_and_labelling_divide_by_the_same_curve(tiny_spectra, tmp_path):
    """Pixels that are left out of training are not in the curve either."""
    rng, n = np.random.default_rng(0), 400
    wave = np.arange(80.0)
    x = rng.normal(size=n)
    lines = 0.1 * np.exp(0.3 * x[:, None]) * (wave % 7 == 3)
    flux = np.exp(-wave / 40.0) * (1.0 - lines) + 0.0002 * rng.normal(size=(n, 80))
    flux[: n // 5, :20] = np.nan
    spectra = Spectra(
        wave, flux, np.where(np.isnan(flux), np.nan, 0.0002), np.arange(n).astype(str), x[:, None],
        np.full((n, 1), 0.01), ("x",),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        emulator = train_emulator(spectra, tmp_path / "model", method="quadratic", noise="correlated", normalise=12.0)
    assert len(emulator.known.wave) == 60
    whole = as_trained(emulator.known, spectra)[0]
    np.testing.assert_array_equal(whole.flux, as_trained(emulator.known, within(spectra, [(20, 80)]))[0].flux)
    expected = emulate(emulator, {"x": x[:1]})["flux"].to_numpy()[0]
    seen = np.arcsinh(whole.flux[0] / (0.3 * np.median(whole.flux[0])))
    got = np.arcsinh(expected / (0.3 * np.median(expected)))
    np.testing.assert_allclose(got, seen, atol=0.02)  # 9% beside the cut, where the curves were two


def test_labels_that_count_as_exact_are_told(tiny_spectra, tmp_path):
    train, said = tiny_spectra(400, 5), []
    train = replace(train, labels_err=train.labels_err.copy())
    train.labels_err[:100, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        train_emulator(train, tmp_path / "model", method="quadratic", noise="correlated", progress=said.append)
    assert sum("count as exact: fe_h of 100 of 400 stars" in text for text in said) == 1


def test_networks_end_to_end(tiny_spectra, tmp_path):
    """Small ones, to see that everything fits together; what they are worth is measured on real spectra."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)  # so small and brief, it may fail its own 40 test stars
        emulator = train_emulator(tiny_spectra(800, 5), tmp_path / "net", noise="correlated", settings=SMALL)
    fresh = tiny_spectra(300, 6)
    found = label_spectra(emulator, fresh, fast=True)
    sd = (found["value"].to_numpy() - fresh.labels).std(axis=0)
    assert (sd < 0.5 * fresh.labels.std(axis=0)).all()
    brief = ManySettings(draws=120)
    full = label_spectra(emulator, fresh.take(slice(32)), settings=brief)
    ok = (full["reason"].to_numpy() == "") & (found["reason"].to_numpy()[:32] == "")
    unit = np.sqrt(np.einsum("sll->sl", full["covariance"].to_numpy()))
    apart = np.abs(full["value"].to_numpy() - found["value"].to_numpy()[:32]) / unit
    assert np.median(apart[ok]) < 0.3
    again = label_spectra(load_emulator(tmp_path / "net"), fresh, fast=True)
    np.testing.assert_array_equal(again["value"], found["value"])
    odd = fresh.flux[:32].copy()
    odd[0], odd[1] = np.linspace(-1.0, 0.9, odd.shape[1]), np.nan
    for fast in (True, False):
        planted = label_spectra(emulator, replace(fresh.take(slice(32)), flux=odd), fast=fast, settings=brief)
        assert planted["reason"].to_numpy()[:2].tolist() == ["no light", "missing pixels"]
        assert planted["misfit_rank"].to_numpy()[0] == 1.0
    assert (tmp_path / "net" / "curves.csv").read_text().startswith("network,epoch,loss,score")
    assert not (tmp_path / "net" / "training").exists()


TRAIN = """
import sys
from pathlib import Path
from hbcal.emulator.train_network import NetworkSettings
from hbcal.networks.train import TrainSettings
from hbcal.training import CoverageWarning, train_emulator
small = NetworkSettings(n_dim=5, n_lead=2, n_net=2, hidden=16, train=TrainSettings(epochs=20, batch=64, every=2))
home = Path(sys.argv[1])
say = lambda text: print(text, flush=True)
train_emulator(
    [home / "train.npz"], home / sys.argv[2], noise="correlated", resume=True, settings=small, progress=say
)
"""


def test_a_training_that_is_killed_goes_on_to_the_same_emulator(home):
    run = [sys.executable, "-c", TRAIN, str(home)]
    with subprocess.Popen([*run, "killed"], stdout=subprocess.PIPE, text=True) as begun:
        for line in begun.stdout:
            if "network 2 of 2, epoch 7" in line:
                os.kill(begun.pid, signal.SIGKILL)
                break
    assert not (home / "killed" / ABOUT).exists()
    with pytest.raises(HbcalError, match="go on with --resume"):
        load_emulator(home / "killed")
    with pytest.raises(HbcalError, match="another seed"):
        train_emulator([home / "train.npz"], home / "killed", noise="correlated", resume=True, settings=SMALL, seed=3)
    begun_at = time.time()
    for name in ("killed", "whole"):
        assert subprocess.run([*run, name], capture_output=True, check=False).returncode == 0
    assert (home / "killed" / MODEL).stat().st_mtime > begun_at
    assert (home / "killed" / MODEL).read_bytes() == (home / "whole" / MODEL).read_bytes()


def altered(tiny_spectra, **arrays):
    return replace(tiny_spectra(400, 5), **arrays)


REFUSED = {
    "no labels": (
        lambda s: replace(s, labels=np.zeros((400, 0)), labels_err=np.zeros((400, 0)), label_names=()), {},
        "training needs labels",
    ),
    "a label that does not vary": (
        lambda s: replace(s, labels=s.labels * [1.0, 0.0]), {}, "'fe_h' is missing or the same",
    ),
    "too few for networks": (lambda s: s.take(slice(200)), {}, "200 of 200 spectra can train networks"),
    "no such method": (lambda s: s, {"method": "quadratik"}, "did you mean 'quadratic'"),
    "nothing but gaps": (lambda s: replace(s, flux=np.full((400, 6), np.nan)), {}, "None of 400 .*400: missing pixels"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_bad_training_spectra_get_one_sentence(what, tiny_spectra, tmp_path):
    change, more, says = REFUSED[what]
    with pytest.raises(HbcalError, match=says) as caught:
        train_emulator(change(tiny_spectra(400, 5)), tmp_path / "model", **{"method": "network", **more})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


COMMANDS = {
    "no such file": ("train", "emulator", "absent.npz", "--out", "m", "no such file"),
    "an emulator that is none": ("label", "nowhere", "new.npz", "--out", "y.nc", "holds no emulator"),
    "labels that are none": ("evaluate", "absent.nc", "new.npz", "--out", "r", "no such file of labels"),
    "a table without labels": ("train", "emulator", "train.npz", "--labels", "t.csv", "--out", "m", "pairs of columns"),
    "another kind of output": ("label", "model2", "new.npz", "--out", "y.csv", "unknown kind"),
    "truth of other stars": ("evaluate", "z.nc", "t.csv", "--out", "r", "nothing can be compared"),
    "truth without ids": ("evaluate", "z.nc", "u.csv", "--out", "r", "no column 'star'"),
    "a torn file of labels": ("evaluate", "torn.nc", "new.npz", "--out", "r", "cannot be read as netCDF"),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_bad_commands_get_one_sentence(what, home, tiny_emulator, tiny_spectra, monkeypatch, capsys):
    *words, says = COMMANDS[what]
    monkeypatch.chdir(home)
    (home / "t.csv").write_text("star,colour\nsomebody,0.5\n")
    (home / "u.csv").write_text("name,fe_h\nsomebody,0.5\n")
    if not (home / "z.nc").exists():
        label_spectra(tiny_emulator, tiny_spectra(20, 6), fast=True).to_netcdf(home / "z.nc", engine="h5netcdf")
    (home / "torn.nc").write_bytes((home / "z.nc").read_bytes()[:300])
    assert hbcal_says(*words, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in said
    assert said.startswith("hbcal: ")
    assert not (home / words[words.index("--out") + 1]).exists()


def test_labels_of_a_table_train_as_those_of_the_file(home, tiny_spectra, tmp_path):
    spectra = tiny_spectra(400, 5)
    rows = [f"{s},{a!r},10.0,{b!r},0.01" for s, (a, b) in zip(spectra.star, spectra.labels.tolist(), strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["star,teff,teff_err,fe_h,fe_h_err", *rows[::-1]]) + "\n")
    emulator = train_emulator(
        [home / "train.npz"], tmp_path / "model", labels=tmp_path / "labels.csv", method="quadratic"
    )
    np.testing.assert_allclose(emulator.known.unit, spectra.labels.std(axis=0), rtol=0.1)
    assert emulator.known.label_names == ("teff", "fe_h")


def test_coverage_is_told_in_bins_and_by_whatever_the_truth_holds(home, tmp_path, tiny_emulator, tiny_spectra):
    spectra = tiny_spectra(300, 6)
    label_spectra(tiny_emulator, spectra, fast=True).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    rows = [f"{s},{a},{b},{i}" for i, (s, (a, b)) in enumerate(zip(spectra.star, spectra.labels.tolist(), strict=True))]
    (tmp_path / "truth.csv").write_text("\n".join(["star,teff,fe_h,g", *rows]) + "\n")
    told = evaluate(tmp_path / "x.nc", tmp_path / "truth.csv", tmp_path / "report")
    assert sum(name.startswith("g ") for name in told["bins"]) == 5
    assert told["bins"]["g 0 to 59.8"]["teff"]["n"] == 60


def test_spectra_of_one_star_stay_together(tiny_spectra, tmp_path):
    spectra = tiny_spectra(600, 3)
    star = np.concatenate([np.arange(300), np.arange(300)])  # each twice
    sky = np.stack([star * 1.1 % 360.0, star * 0.3 - 40.0], axis=1)
    spectra = replace(spectra, meta=sky, meta_names=("ra", "dec"))
    assert len(np.unique(same_sky(spectra))) == 300
    split = training._split(same_sky(spectra), 0, 0.1)
    parts = [set(star[rows].tolist()) for rows in (split.fit, split.unseen, split.test)]
    assert sum(map(len, parts)) == 300 == len(set.union(*parts))
    assert [len(rows) for rows in (split.unseen, split.test)] == [60, 30]
    apart = training._split(np.arange(600), 0, 0.1)  # of stars seen once, what it always was
    np.testing.assert_array_equal(apart.unseen, np.random.default_rng([0, 17]).permutation(600)[:60])
    said = []
    train_emulator(spectra, tmp_path / "model", method="quadratic", noise="independent", progress=said.append)
    assert any(text.startswith("300 spectra are of stars that have another") for text in said)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda y: np.where(np.arange(len(y))[:, None] > 2, [[1.0, np.nan]], 1.0) * y, "known of 3 of 300"),
        (lambda y: np.stack([y[:, 0], 1e-3 * y[:, 0]], axis=1), "one follows from the others"),
        (lambda y: np.stack([y[:, 0], np.full(len(y), 0.1)], axis=1), "same for all 300"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(tiny_spectra, tmp_path, spoil, said):
    spectra = tiny_spectra(300, 3)
    with pytest.raises(HbcalError, match=said):
        train_emulator(replace(spectra, labels=spoil(spectra.labels)), tmp_path / "model", method="quadratic")
    assert not (tmp_path / "model").exists()


def test_a_label_that_varies_only_among_stars_set_aside_is_refused(tiny_spectra, tmp_path):
    spectra = tiny_spectra(300, 3)
    labels = spectra.labels.copy()
    labels[:, 1] = 0.1
    labels[training._split(np.arange(300), 0, 0.1).test[0], 1] = 0.2
    with pytest.raises(HbcalError, match="same for all 255"):
        train_emulator(replace(spectra, labels=labels), tmp_path / "model", method="quadratic", noise="independent")


def test_an_emulator_that_was_changed_on_disk_is_refused(home, tmp_path):
    train_emulator([home / "train.npz"], tmp_path / "model", method="quadratic", noise="independent")
    content = bytearray((tmp_path / "model" / MODEL).read_bytes())
    content[-100:] = bytes(100)
    (tmp_path / "model" / MODEL).write_bytes(content)
    with pytest.raises(HbcalError, match="not the file that was written"):
        load_emulator(tmp_path / "model")


def test_labels_without_a_number_are_no_labels(tiny_spectra):
    spectra = tiny_spectra(9, 3)
    spectra.labels[0, 0], spectra.labels[1, 0], spectra.labels_err[2, 0] = -9999.0, np.inf, np.inf
    found = as_spectra({k: v for k, v in vars(spectra).items() if np.size(v)}, "here")
    assert np.isnan(found.labels[:, 0]).tolist() == [True] * 3 + [False] * 6


def test_places_that_are_none_keep_no_spectra_together(tiny_spectra):
    spectra = tiny_spectra(600, 3)
    sky = np.full((600, 2), -9999.0)
    sky[:200], sky[200:400] = 0.0, [30.0, 40.0]  # nowhere, and a simulation at one place
    sky[400:402] = [10.0, 89.99999]
    group = same_sky(replace(spectra, meta=sky, meta_names=("ra", "dec")))
    assert len(np.unique(group)) == 599
    assert group[400] == group[401]


def test_a_star_is_labelled_apart_from_its_other_spectra(tiny_spectra, tiny_emulator):
    star, fitted = np.arange(60) // 3, []
    spectra = replace(tiny_spectra(60, 3), star=np.array([f"s{i}" for i in range(60)]))

    def fit(rows):
        fitted.append(set(star[rows].tolist()))
        return tiny_emulator

    _, at = labelled_apart(fit, spectra, np.arange(60), star=star)
    held = star[[int(name[1:]) for name in at.star]].reshape(10, 6)
    assert not any(fitted[k] & set(held[k].tolist()) for k in range(10))


def test_an_emulator_knows_its_files(home, tmp_path):
    train_emulator([home / "train.npz"], tmp_path / "model", method="quadratic", noise="independent")
    assert about_emulator(tmp_path / "model")["files"] == {str(home / "train.npz"): sha256(home / "train.npz")}


def test_an_emulator_whose_intervals_fail_exits_with_3(home, monkeypatch, capsys):
    monkeypatch.setattr("hbcal.unseen.MARGIN", -0.6)  # a gate that none passes: tested is what then happens
    words = ("train", "emulator", home / "train.npz", "--method", "quadratic", "--noise", "correlated")
    assert hbcal_says(*words, "--out", home / "failed", monkeypatch=monkeypatch) == 3
    assert "COVERAGE FAILED" in capsys.readouterr().err
    assert json.loads((home / "failed" / ABOUT).read_text())["failures"]
    assert hbcal_says(*words, "--out", home / "kept", "--accept-failed", monkeypatch=monkeypatch) == 0


def test_a_form_that_is_wrong_makes_posteriors_wider(tmp_path):
    rng = np.random.default_rng(7)
    labels = rng.uniform(-1.0, 1.0, (2500, 2))
    size, turn, at = rng.normal(size=(2, 40)), rng.uniform(2.0, 4.0, 40), rng.uniform(0.0, 6.0, 40)
    flux = 1.0 + 0.1 * np.sin(turn * (labels @ size) + at) + rng.normal(0.0, 0.005, (2500, 40))  # nothing quadratic
    err, star = np.full(flux.shape, 0.005), np.arange(2500).astype(str)
    spectra = Spectra(np.arange(500.0, 540.0), flux, err, star, labels, np.full(labels.shape, 1e-3), ("a", "b"))
    new = spectra.take(np.arange(2000, 2500))
    with pytest.warns(CoverageWarning, match="made wider until they do"):
        emulator = train_emulator(
            spectra.take(np.arange(2000)), tmp_path / "model", method="quadratic", noise="independent"
        )  # fmt: skip
    assert min(about_emulator(tmp_path / "model")["sd_times"].values()) > 1.2
    known = replace(emulator.known, spread=np.zeros_like(emulator.known.spread))
    for what, holds in ((emulator, True), (replace(emulator, known=known), False)):
        told = summary(label_spectra(what, new, fast=True), new.labels, new.labels_err)
        for name in ("a", "b"):
            assert (abs(told[name]["within_68"] - 0.683) < 0.08) == holds  # 300 stars set the width: +- 0.03
            assert (abs(told[name]["within_95"] - 0.95) < 0.05) == holds
