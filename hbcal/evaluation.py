"""The job `evaluate`: label posteriors against labels that are known."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import chi2 as chi_squared

WITHIN = {"within_68": 0.683, "within_95": 0.95}


def summary(labels: xr.Dataset, truth: np.ndarray, truth_err: np.ndarray) -> dict[str, dict[str, float]]:
    """Scatter, bias and coverage of label posteriors, label by label and jointly.

        z = (value - truth) / sqrt(covariance + truth_err^2)

    Args:
        labels: of the label schema.
        truth: (n_star, n_label) in the order of `labels`, NaN where it is not known.
        truth_err: its errors; NaN counts as 0.

    Returns:
        Per label n, median, robust_sd (1.4826 MAD about the median), rms, z_sd, within_68 and within_95 (shares); under
        ``joint`` the shares of stars whose truth lies in the joint region of that probability.

    Errors:
        None.

    Example:
        >>> ds = xr.Dataset(
        ...     {"value": (("star", "label"), np.zeros((2, 1))),
        ...      "covariance": (("star", "label", "label_2"), np.ones((2, 1, 1)))}, {"label": ["fe_h"]})
        >>> summary(ds, np.array([[0.5], [3.0]]), np.zeros((2, 1)))["fe_h"]["within_68"]
        0.5
    """
    value, cov = labels["value"].to_numpy(), labels["covariance"].to_numpy()
    err = np.where(np.isfinite(truth_err), truth_err, 0.0)
    off = value - truth
    total = cov + err[:, :, None] ** 2 * np.eye(off.shape[1])
    out = {}
    for l, name in enumerate(labels["label"].to_numpy()):
        ok = np.isfinite(off[:, l])
        if ok.any():
            out[str(name)] = _one(off[ok, l], np.sqrt(total[ok, l, l]))
    whole = np.isfinite(off).all(axis=1)
    if whole.any():
        distance = np.einsum("sl,sl->s", off[whole], np.linalg.solve(total[whole], off[whole][..., None])[..., 0])
        out["joint"] = {"n": float(whole.sum())} | {
            name: float((distance <= chi_squared.ppf(p, off.shape[1])).mean()) for name, p in WITHIN.items()
        }
    return out


def _one(off: np.ndarray, sd: np.ndarray) -> dict[str, float]:
    z = off / sd
    median = float(np.median(off))
    return {
        "n": float(len(off)), "median": median, "robust_sd": float(1.4826 * np.median(np.abs(off - median))),
        "rms": float(np.sqrt((off**2).mean())), "z_sd": float(z.std()),
    } | {name: float((z**2 <= chi_squared.ppf(p, 1)).mean()) for name, p in WITHIN.items()}  # fmt: skip
