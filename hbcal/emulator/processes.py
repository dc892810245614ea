"""Features of the labels for few spectra of exact labels, as of a synthetic grid: components as Gaussian processes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array
from hbcal.emulator.pixels import Components
from hbcal.numerics.gaussian_process import fit_processes, left_out
from hbcal.numerics.lowest import lowest
from hbcal.numerics.principal import n_beyond_noise, principal_scores

MOST_COMPONENTS, SHARE = 40, 0.25  # and at most so many per training star
AT_ONCE = 64
START, SMALLEST = -4.0, -12.0  # ln of a label's floor
MOST_STARS = 1500  # time grows with their cube, and that of labelling with their square


def train_processes(
    x: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, *, seed: int = 0, like: Components | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Components:  # fmt: skip
    """Learn each principal component of the spectra as a Gaussian process of the labels.

    Their errors are as large, and as correlated, as those of training stars left out one at a time: components of a
    spectrum go wrong together, which processes on their own do not know.

    Args:
        x: labels, scaled, (n_star, n_label).
        flux, flux_err: (n_star, n_pix), NaN where missing.
        seed: of the stars that the kernel is fitted to, where there are many.
        like: components of other stars' spectra, whose kernel and number are taken over.
        progress: called with lines of text.

    Returns:
        `Components`, in units of their own scatter.

    Errors:
        None.

    Example:
        >>> spectra = tiny_spectra()
        >>> x = (spectra.labels - spectra.labels.mean(axis=0)) / spectra.labels.std(axis=0)
        >>> components = train_processes(x[:80], spectra.flux[:80], spectra.flux_err[:80])
        >>> components.processes.size.shape, components.floor.shape
        ((6,), (2,))

    Source: Czekala et al. 2015, ApJ 812, 128; Ledoit and Wolf 2004, J. Multivariate Analysis 88, 365.
    """
    from sklearn.covariance import ledoit_wolf

    n = min(MOST_COMPONENTS, max(int(SHARE * len(x)), 1)) if like is None else len(like.own)
    scores = principal_scores(flux, flux_err, n)
    if like is None:
        scores = scores[:, : max(n_beyond_noise(scores, int(np.isfinite(flux).any(axis=0).sum())), 1)]
    width = scores.std(axis=0)
    processes = fit_processes(x, scores / width, seed=seed, kernel=None if like is None else like.processes.kernel)
    own = np.maximum(processes.size * processes.ratio - width**-2.0, 0.0)  # beyond the photons'
    progress(
        f"training: {scores.shape[1]} components of the spectra as Gaussian processes; of their variance labels do "
        f"not tell {100 * float((own * width**2).sum() / (width**2).sum()):.2g}%"
    )
    off, sd = left_out(processes)
    together = ledoit_wolf(off / sd, assume_centered=True)[0]
    slope = np.asarray(jax.lax.map(processes.slope, jnp.asarray(x), batch_size=AT_ONCE))
    floor = label_floor(off, sd[:, :, None] * together * sd[:, None, :], slope)
    return Components(processes, own, np.linalg.cholesky(together), floor)


def label_floor(off: np.ndarray, cov: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The sd of errors that look like errors of the labels, by their likelihood.

        off_i ~ N(0, C_i + J_i diag(floor^2) J_i')

    Why: components go wrong along the very directions in which labels move them, since what is not known of a function
    of labels is how steep it is. Their covariance, the same for all stars, cannot say so, but it is what labels feel.

    Args:
        off: (n_star, n_component).
        cov: C, (n_star, n_component, n_component).
        slope: J, (n_star, n_component, n_label).

    Returns:
        (n_label,).

    Errors:
        None.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> slope, cov = np.ones((2000, 3, 1)), np.tile(0.01 * np.eye(3), (2000, 1, 1))
        >>> off = 0.1 * rng.normal(size=(2000, 3)) + 0.2 * rng.normal(size=(2000, 1))
        >>> label_floor(off, cov, slope).round(1).tolist()
        [0.2]
    """
    solved = np.linalg.solve(cov, slope)
    info, pull = jnp.asarray(np.swapaxes(slope, 1, 2) @ solved), jnp.asarray(np.einsum("ikl,ik->il", solved, off))

    def energy(log_floor: Array) -> Array:
        floor = jnp.exp(log_floor)

        def one(info: Array, pull: Array) -> Array:
            root = jnp.linalg.cholesky(jnp.eye(len(floor)) + floor[:, None] * info * floor[None])
            half = jax.scipy.linalg.solve_triangular(root, floor * pull, lower=True)
            return jnp.log(jnp.diagonal(root)).sum() - 0.5 * half @ half

        return jax.vmap(one)(info, pull).sum()

    n_label = slope.shape[2]
    return np.exp(lowest(energy, np.full(n_label, START), [(SMALLEST, 0.0)] * n_label))
