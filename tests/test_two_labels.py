"""Two labels at once, from the demo's recipe: each is right, in its own unit, and so is what is said of both."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hbcal import calibrate, load_recipe, simulate
from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.observe import observe
from hbcal.run import write_applied

LABELS = ("teff", "fe_h")


@pytest.fixture(scope="module")
def sky():
    return simulate("demo", seed=4, n_star=900)


@pytest.fixture(scope="module")
def applied(sky, optical_table, tmp_path_factory):
    """Stars of the optical survey, as a wide table, put on the common scale."""
    home, cat = tmp_path_factory.mktemp("two"), sky.catalogue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few draws
        run = calibrate(load_recipe("demo"), cat, home / "run", workers=0, chains=2, warmup=100, draws=150)
    table, where = optical_table(cat)
    table.to_csv(home / "t.csv", index=False)
    return run.apply(home / "t.csv", "optical"), sky.z[where], home


@pytest.mark.parametrize("l", [0, 1])
def test_each_label_is_right_within_its_error(applied, l):
    found, z, _ = applied
    score = (found.columns[LABELS[l]] - z[:, l]) / found.columns[f"{LABELS[l]}_err"]
    assert np.isfinite(score).all()
    assert 0.9 < np.sqrt((score**2).mean()) < 1.1
    assert abs(np.median(score)) < 0.25  # the shared calibration error moves all of them together


def test_the_file_holds_the_covariance_of_both(applied):
    found, _, home = applied
    write_applied(found, home / "a.nc")
    with xr.open_dataset(home / "a.nc", engine="h5netcdf") as read:
        assert list(read["label"].to_numpy()) == list(LABELS)
        for l, label in enumerate(LABELS):
            np.testing.assert_allclose(read["covariance"][:, l, l], found.columns[f"{label}_err"] ** 2, rtol=1e-12)
        assert np.linalg.eigvalsh(read["covariance"].to_numpy()).min() > 0


def test_a_consensus_covariate_is_what_is_read_back(tmp_path):
    sky = simulate("seismic_pipelines", tmp_path / "sky", seed=1, n_star=200).catalogue
    read = observe(load_recipe("seismic_pipelines"), tmp_path / "sky")
    c = read.covariates.index("dnu")
    again = pd.Series(read.x[:, 0, c], index=read.stars.astype(str))
    np.testing.assert_allclose(again[sky.stars.astype(str)], sky.x[:, 0, c], atol=1e-9)
