"""Stars of populations whose truth is known, in the file that the recipe `populations_demo` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError
from hbcal.catalogue.write import write_table
from hbcal.folder import check_out
from hbcal.population_recipe import load_populations

DEMO = "populations_demo"
# invented, after the shapes of the Galaxy's: weight, then mean and sd of [Fe/H], [Mg/Fe], [Al/Fe], [Ni/Fe]
TRUTH = {
    "thin disc": (0.55, (-0.05, 0.02, 0.02, 0.00), (0.18, 0.04, 0.05, 0.03)),
    "thick disc": (0.25, (-0.45, 0.27, 0.22, 0.03), (0.17, 0.05, 0.06, 0.03)),
    "halo": (0.08, (-1.00, 0.32, 0.10, 0.02), (0.20, 0.05, 0.10, 0.04)),
    "accreted": (0.12, (-1.25, 0.17, -0.25, -0.08), (0.25, 0.06, 0.08, 0.04)),
}
ERROR, MISSING = 0.04, 0.1  # dex, median; and the share of values that were not measured
N_STAR = 1500


def simulate_populations(out: str | Path, *, seed: int = 0, n_star: int | None = None) -> None:
    """Write ``stars.csv``, as a survey would have it, and ``truth.csv``, the population of each star.

        x_i ~ sum_k w_k N(mu_k, diag sd_k^2) + N(0, e_i^2),   ln e_i ~ N(ln 0.04, 0.3^2),   a tenth not measured

    Args:
        out: folder, empty or not there.
        seed: of everything that is drawn.
        n_star: how many stars.

    Returns:
        Nothing.

    Errors:
        HbcalError for a folder in use, or fewer than one star.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     simulate_populations(Path(folder) / "sky", n_star=50)
        ...     sorted(path.name for path in (Path(folder) / "sky").iterdir())
        ['stars.csv', 'truth.csv']
    """
    out, n = Path(out), N_STAR if n_star is None else n_star
    check_out(out)
    if n < 1:
        raise HbcalError(f"{n} stars were asked for: give 1 or more.")
    rng, elements = np.random.default_rng(seed), list(load_populations(DEMO).elements)
    names, told = np.array(list(TRUTH), object), list(TRUTH.values())
    which = rng.choice(len(told), n, p=[each[0] for each in told])
    mean, sd = (np.array([each[k] for each in told])[which] for k in (1, 2))
    err = ERROR * np.exp(0.3 * rng.normal(size=mean.shape))
    value = mean + sd * rng.normal(size=mean.shape) + err * rng.normal(size=mean.shape)
    value[rng.random(value.shape) < MISSING] = np.nan
    star = np.array([f"star{i:05d}" for i in range(n)], object)
    columns = {"star": star}
    for e, name in enumerate(elements):
        columns |= {name: value[:, e], f"{name}_err": err[:, e]}
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "truth.csv", {"star": star, "population": names[which]}, {}, {})
    write_table(out / "stars.csv", columns, {}, {})
