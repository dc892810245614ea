"""Emulators of independent pixels, trained by a job that is interrupted: it goes on to the same emulator."""

import contextlib
import warnings
from dataclasses import replace

import jax
import numpy as np

from hbcal.emulator.files import MODEL
from hbcal.emulator.hidden import SETTINGS, train_hidden
from hbcal.emulator.pixels import Quadratic
from hbcal.spectra.container import Spectra
from hbcal.training import CoverageWarning, train_emulator


def waves(n):
    """Spectra of more pixels than a network has features."""
    rng = np.random.default_rng(3)
    labels = rng.uniform(-1.0, 1.0, (n, 2))
    flux = 1.0 + 0.1 * np.sin(labels @ rng.normal(size=(2, 50)) + rng.uniform(0.0, 6.0, 50))
    flux, err = flux + rng.normal(0.0, 0.005, flux.shape), np.full(flux.shape, 0.005)
    wave, star = np.arange(500.0, 550.0), np.arange(n).astype(str)
    return Spectra(wave, flux, err, star, labels, np.full(labels.shape, 1e-3), ("a", "b"))


class Killed(BaseException):
    """Nothing catches it."""


def train(spectra, out, method, stop="never"):
    """The lines of a training, which is killed by the first that begins with `stop`."""
    said = []

    def say(text):
        said.append(text)
        if text.startswith(stop):
            raise Killed

    with contextlib.suppress(Killed), warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)  # so brief: what is compared is not good
        train_emulator(spectra, out, method=method, noise="independent", resume=True, progress=say)
    return said


def test_features_of_a_network(tmp_path, monkeypatch):
    """Up to where spectra are labelled, which takes longest and knows nothing of it."""
    found, epoch = [], "training: features of the labels, epoch "

    def labelled(emulator, *_, **__):
        found.append(emulator)
        raise Killed

    monkeypatch.setattr("hbcal.training.label_spectra", labelled)
    monkeypatch.setitem(train_hidden.__kwdefaults__, "settings", replace(SETTINGS, epochs=40, every=5))
    spectra, killed, whole = waves(400), tmp_path / "killed", tmp_path / "whole"
    train(spectra, killed, "network", f"{epoch}25")
    assert not found
    told = [
        [int(line.removeprefix(epoch).split()[0]) for line in train(spectra, out, "network") if epoch in line]
        for out in (killed, whole)
    ]
    assert told == [[25, 30, 35, 40], [5, 10, 15, 20, 25, 30, 35, 40]]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (killed / "curves.csv").read_text() == (whole / "curves.csv").read_text()
    first, *lines = (whole / "curves.csv").read_text().splitlines()
    assert first == "network,epoch,loss,score"
    assert [line.split(",")[:2] for line in lines] == [["features", str(n)] for n in range(40)]


def test_labels_told_by_others(tmp_path, monkeypatch):
    """Quadratic features in place of processes, which take a minute."""
    n_fit, spectra, told = [], waves(120), "labelled by emulators that were fitted to others: "
    monkeypatch.setattr("hbcal.emulator.independent.train_processes", lambda *_, **__: n_fit.append(1) or Quadratic())
    train(spectra, tmp_path / "killed", "process", f"{told}36 of 114")
    assert len(n_fit) == 1 + 3
    for name, n in {"killed": 1 + 7, "whole": 1 + 10}.items():
        n_fit.clear()
        assert sum(told in line for line in train(spectra, tmp_path / name, "process")) == 10
        assert len(n_fit) == n
        assert not (tmp_path / name / "training").exists()
    assert (tmp_path / "killed" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
