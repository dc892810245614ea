"""`hbcal check` passes what is right and catches a planted defect."""

from dataclasses import replace

import pytest
import xarray as xr

from hbcal import calibrate, simulate
from hbcal.checking import check_run


@pytest.fixture(scope="session")
def good(tmp_path_factory, tiny_run):
    out = tmp_path_factory.mktemp("check") / "run"
    sky = simulate(tiny_run.recipe, seed=5, n_star=400).catalogue
    return calibrate(tiny_run.recipe, sky, out, workers=0, chains=4, warmup=300, draws=1000)


def altered(run, **changes):
    """The same run with some variables of its posterior multiplied."""
    posterior = run.tree["posterior"].to_dataset()
    posterior = posterior.assign({name: posterior[name] * factor for name, factor in changes.items()})
    return replace(run, tree=xr.DataTree.from_dict({**run.tree.to_dict(), "/posterior": posterior}))


def test_a_good_run_passes(good):
    found = check_run(good)
    assert found.failures == []
    assert set(found.coverages) == {"s0 fe_h", "s1 fe_h", "s2 fe_h"}
    assert found.as_dict()["passed"]


def test_errors_shrunk_by_half_are_caught(good):
    found = check_run(altered(good, error_scale=0.5, floor=0.5))
    assert any("residuals scatter" in failure for failure in found.failures)
    assert not found.as_dict()["passed"]


def test_a_wrong_zero_point_is_caught(good):
    found = check_run(altered(good, offset=1.0 + 0.5 / float(abs(good.posterior["offset"]).max())))
    assert any("in the median" in failure for failure in found.failures)
