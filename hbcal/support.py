"""Where the fit has seen stars: a number that is 0 inside and grows outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr


@dataclass(frozen=True)
class Support:
    """The fitted stars' covariates, summarised: box, centre and shape, per category.

    Attributes:
        low, high: box, (n_covariate,).
        centre: (n_covariate,).
        root: inverse Cholesky factor of the covariance, (n_covariate, n_covariate).
        reach: largest Mahalanobis distance of a fitted star.
        n_star: how many stars it stems from.
    """

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    root: np.ndarray
    reach: float
    n_star: int

    def distance(self, u: np.ndarray) -> np.ndarray:
        """How far outside each star lies, (n_row,), dimensionless.

        The larger of two: the distance from the box in units of the fitted stars' standard deviation, and the
        Mahalanobis distance relative to the farthest fitted star, minus one. Both are 0 for every fitted star.
        """
        spread = np.sqrt(np.diag(np.linalg.inv(self.root.T @ self.root)))
        box = np.maximum(np.maximum(self.low - u, u - self.high), 0.0) / spread
        far = np.linalg.norm((u - self.centre) @ self.root.T, axis=1) / self.reach - 1.0
        return np.maximum(np.sqrt((box**2).sum(1)), np.maximum(far - 1e-9, 0.0))


def support_of(u: np.ndarray) -> Support:
    """Summarise the fitted stars.

    Args:
        u: standardised covariates of the fitted stars, (n_star, n_covariate), n_star >= 1.

    Returns:
        `Support`.

    Errors:
        IndexError for no stars.

    Example:
        >>> s = support_of(np.random.default_rng(0).normal(size=(500, 2)))
        >>> s.distance(np.array([[0.0, 0.0], [50.0, 0.0]])).round(1)[0]
        np.float64(0.0)
    """
    centre = u.mean(0)
    n = u.shape[1]
    scatter = (u - centre).T @ (u - centre) / max(len(u) - 1, 1) + 1e-6 * np.eye(n)
    root = np.linalg.inv(np.linalg.cholesky(scatter)) if n else np.zeros((0, 0))
    reach = float(np.linalg.norm((u - centre) @ root.T, axis=1).max()) if n else 1.0
    return Support(u.min(0), u.max(0), centre, root, max(reach, 1e-9), len(u))


@dataclass(frozen=True)
class Edges:
    """The range of true labels that the fitted stars of a survey span, and whether its relation is predictive.

    Attributes:
        low, high: label unit.
        predictive: whether the survey's own reports are among the covariates.
    """

    low: float
    high: float
    predictive: bool

    def beyond(self, z: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """How far outside the range each star lies, in units of its own sd; 0 inside."""
        return np.maximum(np.maximum(self.low - z, z - self.high), 0.0) / sd

    def errors(self, z: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Systematic error at the lower and the upper edge, S lambda((low - z) / S) and its mirror image.

        "Given what the survey reports, the true label is ..." is learnt from stars inside the range. If stars go on
        beyond it, the sample is cut in the very quantity it predicts, and near the cut the prediction is off by
        S lambda(t), the mean of a normal distribution cut at t (lambda = density / upper tail). A sample cut at its
        middle shows only 0.6 of its scatter; hence S = 2 sd rather than sd. Far inside the error vanishes.

        Args:
            z: calibrated labels, (n_row,).
            sd: their noise sd, (n_row,), same unit.

        Returns:
            Two arrays (n_row,), label unit; zero for a relation that is not predictive.

        Errors:
            None.

        Example:
            >>> Edges(0.0, 10.0, True).errors(np.array([0.0, 5.0]), np.array([0.1, 0.1]))[0].round(3).tolist()
            [0.16, 0.0]
        """
        if not self.predictive:
            return np.zeros_like(z), np.zeros_like(z)
        scale = 2.0 * sd
        low, high = (np.clip(t, -30.0, 30.0) for t in ((self.low - z) / scale, (z - self.high) / scale))
        return scale * _hazard(low), scale * _hazard(high)


def _hazard(t: np.ndarray) -> np.ndarray:
    """Standard normal density at t over the probability beyond it."""
    return np.exp(-0.5 * t**2 - 0.5 * np.log(2.0 * np.pi) - log_ndtr(-t))
