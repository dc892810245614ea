"""What draws of a posterior say about one number per row: a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp, ndtr

from hbcal.numerics.mixture import mixture_quantiles
from hbcal.numerics.outliers import INFLATION

CHUNK = 1024
_quantiles = jax.jit(mixture_quantiles)


@dataclass(frozen=True)
class Mixture:
    """sum_dh weight_dh N(mean_dh, sd_dh^2), a component per draw d and hypothesis h.

    Attributes:
        mean, sd: (n_row, n_draw, n_hypothesis), any unit; sd > 0.
        weight: same shape; those of a row sum to one.
    """

    mean: np.ndarray
    sd: np.ndarray
    weight: np.ndarray

    @staticmethod
    def of_draws(mean: np.ndarray, sd: np.ndarray) -> Mixture:
        """One component of equal weight per draw; mean and sd (n_row, n_draw)."""
        return Mixture(mean[..., None], sd[..., None], np.full((*mean.shape, 1), 1.0 / max(mean.shape[1], 1)))

    def rows(self, which: np.ndarray | slice) -> Mixture:
        """The mixture of some rows."""
        return Mixture(self.mean[which], self.sd[which], self.weight[which])

    def measured(self, shift: np.ndarray, noise: np.ndarray) -> Mixture:
        """What a measurement adds, shift and noise sd (n_row, n_draw)."""
        return Mixture(self.mean + shift[..., None], np.hypot(self.sd, noise[..., None]), self.weight)

    def blunders(self, noise: np.ndarray, rate: np.ndarray) -> Mixture:
        """The same where a measurement of this noise, (n_row, n_draw), is an outlier at a rate, (n_draw,)."""
        if not rate.any():
            return self
        share = rate[None, :, None]
        wide = np.sqrt(self.sd**2 + (INFLATION - 1.0) * noise[..., None] ** 2)
        return Mixture(
            np.concatenate([self.mean, self.mean], axis=2), np.concatenate([self.sd, wide], axis=2),
            np.concatenate([(1.0 - share) * self.weight, share * self.weight], axis=2),
        )  # fmt: skip

    def copied(self, values: np.ndarray, seen: np.ndarray, taken: Any) -> Mixture:
        """The same where a row may be a copy of a parent's value, (n_row, n_parent); odds and width from `taken`."""
        if not taken.odds.any():
            return self
        odds = np.where(seen[:, None, :], taken.odds[None], 0.0)
        none = 1.0 / (1.0 + odds.sum(2, keepdims=True))
        return Mixture(
            np.concatenate([self.mean, values[:, None, :] + taken.copy_offset[None]], axis=2),
            np.concatenate([self.sd, np.broadcast_to(taken.copy_sd[None], odds.shape)], axis=2),
            np.concatenate([self.weight * none, odds * none / self.mean.shape[1]], axis=2),
        )

    def centre(self) -> np.ndarray:
        """Mean of each row."""
        return (self.weight * self.mean).sum((1, 2))

    def spread(self) -> np.ndarray:
        """Standard deviation of each row."""
        away = self.mean - self.centre()[:, None, None]
        return np.sqrt((self.weight * (self.sd**2 + away**2)).sum((1, 2)))

    def cdf(self, value: np.ndarray) -> np.ndarray:
        """Probability below a value, (n_row,)."""
        return (self.weight * ndtr((value[:, None, None] - self.mean) / self.sd)).sum((1, 2))

    def log_density(self, value: np.ndarray) -> np.ndarray:
        """Log density at a value, (n_row,), per unit of the value."""
        z = (value[:, None, None] - self.mean) / self.sd
        log_p = -0.5 * z**2 - np.log(self.sd) - 0.5 * np.log(2.0 * np.pi)
        return logsumexp(log_p, axis=(1, 2), b=self.weight)

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles of each row, (n_row, n_level), in chunks of one compiled shape.

        Args:
            levels: probabilities.

        Returns:
            In the unit of the mixture.

        Errors:
            None: NaN in, NaN out.

        Example:
            >>> Mixture.of_draws(np.zeros((1, 2)), np.ones((1, 2))).quantiles((0.5,)).round(6).tolist()
            [[0.0]]
        """
        n_row = len(self.mean)
        out = np.empty((n_row, len(levels)))
        parts = (self.mean, np.maximum(self.sd, 1e-12), self.weight)
        for start in range(0, n_row, CHUNK):
            stop = min(start + CHUNK, n_row)
            here = [x[start:stop].reshape(stop - start, -1) for x in parts]
            pad = [np.concatenate([x, np.ones((CHUNK - len(x), x.shape[1]))]) for x in here]
            out[start:stop] = np.asarray(_quantiles(*map(jnp.asarray, pad), jnp.asarray(levels)))[: stop - start]
        return out
