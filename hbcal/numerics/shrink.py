"""Thousands of noisy vectors that have a distribution in common: each is drawn towards it as far as its noise asks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

ROUNDS, SETTLED = 25, 1e-4
MOST = 10000  # vectors that the distribution is fitted to
KINDS = (0.0, 0.5, 1.0)  # quantiles of the signal between which the components begin
FLOOR = 1e-3  # of a component's variance, in units of the mean noise
EACH = 20  # vectors per dimension, for a full covariance


def shrink(value: np.ndarray, cov: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and covariances under a mixture of Gaussians fitted to all vectors, their noise removed.

        v_p ~ sum_k q_k N(m_k, T_k),    value_p ~ N(v_p, cov_p)

    Why: a spectrum's labels are told by sums over pixels of products of weights, sum_p w_p w_p' / v_p. Unbiased
    estimates of w_p make every such sum too large, by sum_p cov_p / v_p, which thousands of pixels that hardly know
    their weights can make as large as the sum itself: labels are then drawn to the middle of the training set, and look
    surer than they are. With each pixel's posterior under a distribution of weights that is right on the average, mean
    and covariance add up to the right sum.

    Args:
        value: (n, d).
        cov: of the noise, (n, d, d).
        seed: of the vectors that the distribution is fitted to.

    Returns:
        Means (n, d) and covariances (n, d, d).

    Errors:
        None.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.normal(size=(1000, 1))
        >>> seen = truth + 2.0 * rng.normal(size=(1000, 1))
        >>> mean, cov = shrink(seen, np.full((1000, 1, 1), 4.0))
        >>> bool(abs((mean**2).mean() + cov.mean() - 1.0) < 0.5), bool((mean - truth).std() < 1.0)
        (True, True)

    Source: Efron and Morris 1973, JASA 68, 117; Bovy, Hogg and Roweis 2011, Annals of Applied Statistics 5, 1657.
    """
    n, d = value.shape
    rows = np.random.default_rng(seed).permutation(n)[:MOST]
    log_share, centre, wide = _fit(value[rows], cov[rows], whole=len(rows) >= EACH * d)
    log_weight, means, covs = _given(value, cov, log_share, centre, wide)
    share = np.exp(log_weight - log_weight.max(axis=0))
    share /= share.sum(axis=0)
    mean = np.einsum("kp,kpd->pd", share, means)
    apart = means - mean
    spread = np.einsum("kp,kpde->pde", share, covs) + np.einsum("kp,kpd,kpe->pde", share, apart, apart)
    return mean, spread


def _fit(value: np.ndarray, cov: np.ndarray, *, whole: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mixture by expectation maximisation; with too few vectors, one component without correlations."""
    n, d = value.shape
    middle = np.median(value, axis=0)
    signal = np.einsum("pd,pd->p", value - middle, np.linalg.solve(cov, (value - middle)[..., None])[..., 0])
    edges = np.quantile(signal, KINDS) if whole and n >= EACH * d * (len(KINDS) - 1) / 2 else np.array([-1.0, np.inf])
    kinds = [(signal > low) & (signal <= high) for low, high in pairwise(edges)]
    kinds = [kind for kind in kinds if kind.any()]
    floor = FLOOR * np.einsum("pdd->d", cov) / n
    log_share = np.log([kind.mean() for kind in kinds])
    centre = np.stack([value[kind].mean(axis=0) for kind in kinds])
    wide = np.stack([np.diag(_more(value[kind].var(axis=0), cov[kind])) for kind in kinds])
    before = -np.inf
    for _ in range(ROUNDS):
        log_weight, means, covs = _given(value, cov, log_share, centre, wide)
        top = log_weight.max(axis=0)
        share = np.exp(log_weight - top)
        total = share.sum(axis=0)
        share /= total
        number = share.sum(axis=1)
        log_share = np.log(number / n + 1e-12)
        centre = np.einsum("kp,kpd->kd", share, means) / number[:, None]
        off = means - centre[:, None]
        wide = np.einsum("kp,kpde->kde", share, covs + off[..., :, None] * off[..., None, :]) / number[:, None, None]
        if not whole:
            wide *= np.eye(d)
        wide += floor * np.eye(d)
        told = float((top + np.log(total)).mean())
        if told - before < SETTLED:
            break
        before = told
    return log_share, centre, wide


def _more(total: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Variance beyond the noise: to begin near, since expectation maximisation is slow where noise is most of it."""
    return np.maximum(total - np.einsum("pdd->d", cov) / len(cov), 0.05 * total)


def _given(
    value: np.ndarray, cov: np.ndarray, log_share: np.ndarray, centre: np.ndarray, wide: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every component and vector: log weight, posterior mean and covariance."""
    log_weight, means, covs = [], [], []
    for share, m, t in zip(log_share, centre, wide, strict=True):
        inverse = np.linalg.inv(t + cov)
        off = value - m
        pulled = np.einsum("pde,pe->pd", inverse, off)
        log_det = np.linalg.slogdet(inverse)[1]
        log_weight.append(share + 0.5 * log_det - 0.5 * (off * pulled).sum(axis=1))
        means.append(m + pulled @ t)
        covs.append(t - t @ inverse @ t)
    return np.stack(log_weight), np.stack(means), np.stack(covs)
