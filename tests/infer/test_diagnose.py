"""The gate: good draws pass, and each planted defect is named."""

import numpy as np
import pytest
import xarray as xr

from hbcal.infer.diagnose import diagnose, table

DIMS = ("chain", "draw")


def good(seed=0, n_chain=4, n_draw=1000):
    rng = np.random.default_rng(seed)
    posterior = xr.Dataset(
        {
            "offset": ((*DIMS, "survey"), rng.normal(size=(n_chain, n_draw, 2))),
            "floor": (DIMS, rng.lognormal(size=(n_chain, n_draw))),
        },
        coords={"survey": ["a", "b"]},
    )
    stats = xr.Dataset(
        {
            "diverging": (DIMS, np.zeros((n_chain, n_draw), bool)),
            "energy": (DIMS, rng.normal(size=(n_chain, n_draw))),
        }
    )
    return posterior, stats


def correlated(rng, shape, rho):
    x = rng.normal(size=shape)
    for t in range(1, shape[1]):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
    return x


def test_good_draws_pass():
    found = diagnose(*good())
    assert found.passed
    assert found.failures == ()
    assert found.n_quantity == 3
    assert found.as_dict()["passed"] is True
    assert found.text().endswith("PASSED")


def planted(name):
    posterior, stats = good()
    rng = np.random.default_rng(1)
    b = posterior["offset"].values[:, :, 1]
    if name == "a stuck chain":
        b[2] = b[2, 0]
    elif name == "a shifted chain":
        b[3] += 2.0
    elif name == "one wider chain":
        b[1] *= 5.0
    elif name == "a drift":
        b += np.linspace(-1.5, 1.5, b.shape[1])
    elif name == "slow mixing":
        b[:] = correlated(rng, b.shape, 0.97)
    elif name == "a divergence":
        stats["diverging"].values[1, 7] = True
    elif name == "energy walks":
        stats["energy"].values[0] = np.cumsum(rng.normal(size=b.shape[1]))
    elif name == "energy stands still":
        stats["energy"].values[0] = 1.0
    return posterior, stats


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a stuck chain", "R-hat of offset[b]"),
        ("a shifted chain", "R-hat of offset[b]"),
        ("one wider chain", "R-hat of offset[b]"),
        ("a drift", "R-hat of offset[b]"),
        ("slow mixing", "bulk ESS of offset[b]"),
        ("a divergence", "1 divergent transitions"),
        ("energy walks", "E-BFMI is 0.0"),
        ("energy stands still", "E-BFMI is nan"),
    ],
)
def test_each_defect_is_named(name, says):
    found = diagnose(*planted(name))
    assert not found.passed
    assert any(text.startswith(says) for text in found.failures), found.failures
    assert says in found.text()


def test_a_defect_elsewhere_is_not_blamed_on_the_others():
    assert diagnose(*planted("a divergence")).failures == ("1 divergent transitions",)
    assert len(diagnose(*planted("energy walks")).failures) == 1


def test_tails_are_judged_on_their_own():
    """Chains that agree in the middle but visit one tail in a single long excursion."""
    posterior, stats = good()
    b = posterior["offset"].values[:, :, 1]
    order = np.arange(b.shape[1])
    for chain in b:
        far = np.flatnonzero(chain > np.quantile(chain, 0.93))
        rest = np.setdiff1d(order, far)
        chain[:] = chain[np.concatenate([rest[:300], far, rest[300:]])]
    found = diagnose(posterior, stats)
    assert any(text.startswith("tail ESS of offset[b]") for text in found.failures)


def test_constants_and_what_does_not_exist_are_not_judged():
    posterior, stats = good()
    posterior["offset"].values[:, :, 0] = 0.0
    posterior["offset"].values[:, :, 1] = np.nan
    found = diagnose(posterior, stats)
    assert found.passed
    assert found.n_quantity == 1
    assert np.isnan(table(posterior)["offset"]["r_hat"]).all()


def test_nothing_to_judge_is_not_a_pass():
    posterior, stats = good()
    found = diagnose(posterior[["floor"]] * np.nan, stats)
    assert not found.passed


def test_a_quantity_that_never_moved_in_any_chain_is_named():
    """Each chain stuck at a place of its own."""
    posterior, stats = good()
    posterior["offset"].values[:, :, 1] = np.arange(4.0)[:, None]
    assert any("offset[b]" in text for text in diagnose(posterior, stats).failures)
