"""`make demo`: it passes its own gate; and its two labels are each right, in their unit, and so is what joins them."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hbcal import load_recipe, open_run, simulate
from hbcal.catalogue.observe import observe
from hbcal.demo import run_demo
from hbcal.run import write_applied

LABELS = ("teff", "fe_h")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the command prints, whether the posterior is sound, and the folder."""
    out = tmp_path_factory.mktemp("two") / "demo"
    return *run_demo(out), out


@pytest.fixture(scope="module")
def applied(demo, optical_table):
    """Stars of the optical survey, as a wide table, put on the common scale."""
    home, sky = demo[2], simulate("demo", seed=1)
    table, where = optical_table(sky.catalogue)
    table.to_csv(home / "t.csv", index=False)
    return open_run(home / "run").apply(home / "t.csv", "optical"), sky.z[where], home


def test_the_demo_passes_its_gate(demo):
    said, passed, out = demo
    assert passed, said
    recovered = pd.read_csv(out / "recovery.csv")
    assert 0.6 < np.sqrt((recovered["z"] ** 2).mean()) < 1.5  # of some 20 numbers
    assert (out / "recovery.txt").read_text().startswith("quantity")


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
