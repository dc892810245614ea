"""Populations that part only at a fixed value of one element: the Galaxy's high- and low-alpha stars at their [Fe/H].

Components of a mixture follow the largest spreads, and chemical evolution along [Fe/H] is the largest of all: a split
at fixed [Fe/H] hides inside each of them. It is found again in what the mixture says of another element given that one,

    p(y | x) = sum_k w_k(x) N(y; m_k(x), s_k^2(x)),   w_k(x) ∝ w_k N(x; mu_kx, Sigma_kxx),
    m_k(x) = mu_ky + Sigma_kxy / Sigma_kxx (x - mu_kx),   s_k^2(x) = Sigma_kyy - Sigma_kxy^2 / Sigma_kxx,

free of errors: where that has two peaks there are two populations, parted at the dip between them, whatever the
components are called.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import ndtr

from hbcal._typing import Float

N_AT = 41  # values of the fixed element
N_DRAW = 100
N_LEVEL = 161  # values of the other one, between the outermost components
FEW = 0.05  # share of the stars at a value that make a peak
DIP = 0.9  # of the lower of the two peaks: a dip is one where the density is less


@dataclass(frozen=True)
class Split:
    """How an element parts at fixed values of another, draw by draw.

    Attributes:
        upper: share of stars above the dip, (n_draw, n_at), NaN where there is none.
        dip: where it is, (n_draw, n_at).
    """

    upper: np.ndarray
    dip: np.ndarray

    @property
    def two(self) -> np.ndarray:
        """Share of the draws in which there are two peaks, (n_at,)."""
        return np.isfinite(self.dip).mean(0)


def split_at(
    log_weight: Float[np.ndarray, "n_draw n_comp"],
    mean: Float[np.ndarray, "n_draw n_comp n_dim"],
    covariance: Float[np.ndarray, "n_draw n_comp n_dim n_dim"],
    at: Float[np.ndarray, " n_at"],
    combination: Float[np.ndarray, "2 n_dim"],
) -> Split:
    """Look for two peaks of one combination of elements at fixed values of another.

    Args:
        log_weight, mean, covariance: draws of components, without the background, elements' units.
        at: values of x.
        combination: x and y are these sums of the elements: [Mg/Fe] is [Mg/H] - [Fe/H].

    Returns:
        `Split`.

    Errors:
        None.

    Example:
        >>> one = np.array([[[-0.5, 0.3], [-0.5, 0.0]]])
        >>> wide = np.tile(np.diag([0.1, 0.002]), (1, 2, 1, 1))
        >>> found = split_at(np.log([[0.25, 0.75]]), one, wide, np.array([-0.5]), np.eye(2))
        >>> found.two.tolist(), found.upper.round(2).tolist()
        ([1.0], [[0.25]])
    """
    m = np.einsum("skd,cd->skc", mean, combination)
    s = np.einsum("cd,skde,fe->skcf", combination, covariance, combination)
    var, slope = s[..., 0, 0], s[..., 0, 1] / s[..., 0, 0]
    off = at[None, None, :] - m[..., 0, None]
    log_share = log_weight[..., None] - 0.5 * off**2 / var[..., None] - 0.5 * np.log(var)[..., None]
    share = np.exp(log_share - log_share.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    middle = m[..., 1, None] + slope[..., None] * off
    width = np.sqrt(np.maximum(s[..., 1, 1] - slope * s[..., 0, 1], 1e-12))[..., None]
    upper, dip = np.full((2, len(share), len(at)), np.nan)
    for a in range(len(at)):
        w, mu, sd = share[:, :, a], middle[:, :, a], np.broadcast_to(width[:, :, 0], share.shape[:2])
        half = np.where(w > 0.01, 2.0 * sd, -np.inf)  # the others must not make the levels coarse
        level = np.linspace((mu - half).min(1), (mu + half).max(1), N_LEVEL, axis=1)
        z = (level[:, None, :] - mu[:, :, None]) / sd[:, :, None]
        density = (w[:, :, None] / sd[:, :, None] * np.exp(-0.5 * z**2)).sum(1)
        above = (w[:, :, None] * ndtr(-z)).sum(1)
        for d in range(len(share)):
            here = _dip(density[d], above[d])
            if here >= 0:
                dip[d, a], upper[d, a] = level[d, here], above[d, here]
    return Split(upper, dip)


def _dip(density: np.ndarray, above: np.ndarray) -> int:
    """Where the deepest dip between two peaks is that has `FEW` of the stars on either side, -1 where there is none."""
    before, after = np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1]
    there = (above > FEW) & (above < 1.0 - FEW)  # elsewhere the density may be 0 on a whole side
    depth = np.divide(density, np.minimum(before, after), out=np.ones_like(density), where=there)
    at = int(np.argmin(depth))
    return at if depth[at] < DIP else -1


def splits(found: xr.Dataset, value: np.ndarray, fixed: str) -> xr.Dataset | None:
    """How each element parts at fixed values of one; those named ``x_h`` are taken relative to it, as [X/Fe].

    Args:
        found: the components of a run, elements' units.
        value: of the stars, (n_star, n_element); 90% of them span the values that are looked at.
        fixed: name of the fixed element.

    Returns:
        ``two`` (parted, at), ``upper`` and ``dip`` (some, parted, at); None where there is no such element.

    Errors:
        None.

    Example:
        >>> run = tiny_population_run()
        >>> found = splits(run.tree["components"].to_dataset(), tiny_abundances().value, "fe_h")
        >>> found["parted"].values.tolist(), found.sizes["at"]
        (['mg_fe'], 41)
    """
    elements = [str(name) for name in found["element"].values]
    if fixed not in elements:
        return None
    x = elements.index(fixed)
    seen = value[np.isfinite(value[:, x]), x]
    if not len(seen):
        return None
    low, high = np.quantile(seen, (0.05, 0.95))
    at = np.linspace(low, high, N_AT)
    rows = np.linspace(0, found.sizes["some"] - 1, min(found.sizes["some"], N_DRAW)).astype(int)
    some = found.isel(some=rows, component=slice(None, -1))  # the background is the last
    log_weight, mean, covariance = (some[name].to_numpy() for name in ("log_weight", "mean", "covariance"))
    others, alone, each = [name for name in elements if name != fixed], np.eye(len(elements)), []
    for name in others:
        y = alone[elements.index(name)] - name.endswith("_h") * alone[x]
        each.append(split_at(log_weight, mean, covariance, at, np.stack([alone[x], y])))
    named = [f"{name[:-2]}_{fixed[:-2]}" if name.endswith("_h") else name for name in others]
    stack = lambda what: np.stack([getattr(one, what) for one in each], axis=-2)  # noqa: E731
    return xr.Dataset(
        {"two": (("parted", "at"), stack("two")), "upper": (("draw_of", "parted", "at"), stack("upper")),
         "dip": (("draw_of", "parted", "at"), stack("dip"))},
        {"parted": named, "at": at}, {"fixed": fixed},
    )  # fmt: skip
