"""A network of the labels, the residuals correlated: what a spectrum's first components say bends the others."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array, Float
from hbcal.emulator.base import (
    MOST_MISSING,
    Emulator,
    Known,
    Predicted,
    median_of,
    stretched,
    stretched_whole,
    why_not,
)
from hbcal.networks.autoregressive import Autoregressive

LONGEST = 0.02  # of the pixels, neighbours that are missing: 68.3% intervals of XP spectra hold 66 to 67% with such a
# gap, but 56 to 62% with one of a tenth, since networks take what is filled in for seen
NO_META = "missing meta"  # why a spectrum has no answer: networks have not learned to do without
N_DRAW = 256  # of a network, for a spectrum's mean and covariance
FAR = 8.0  # a component farther out, in sd of the training stars, is taken for this far: networks know no more


@pytree
class Components:
    """Spectra as principal components, and what is measured beside them as more of these.

    Attributes:
        mean: of the stretched flux, (n_pix,).
        basis: orthonormal, (n_pix, n_dim).
        scale: sd of each component over the training stars, (n_dim,).
        rest: sd of what the components leave, (n_pix,).
        level: mean and sd over the training stars of the log of the median relative error, (2,).
        beside: mean and sd over them of each column of meta, (2, n_meta).
    """

    mean: AnyArray
    basis: AnyArray
    scale: AnyArray
    rest: AnyArray
    level: AnyArray
    beside: AnyArray

    def of(
        self, flux: np.ndarray, flux_err: np.ndarray, meta: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scaled components (n_star, n_dim), noise level (n_star, 1), misfit of the rest (n_star,).

        Pixels that are missing, up to `MOST_MISSING` of them, are filled in from the components.
        """
        y = stretched_whole(flux, self.filled)[0] - np.asarray(self.mean)
        z, seen = self.scores(y), np.isfinite(y)
        y = np.where(seen, y, 0.0)
        left = np.where(seen, (y - z @ np.asarray(self.basis).T) / np.asarray(self.rest), 0.0)
        rest = (left**2).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        z = z / np.asarray(self.scale)
        if meta is not None:
            mean, sd = np.asarray(self.beside)
            z = np.column_stack([z, np.nan_to_num((meta - mean) / sd)])
        return z, self.noise_level(flux, flux_err), rest

    def scores(self, y: np.ndarray) -> np.ndarray:
        """Components of stretched flux less the mean, (n_star, n_dim); likeliest where some pixels are missing."""
        seen, basis = np.isfinite(y), np.asarray(self.basis)
        y = np.where(seen, y, 0.0)
        z, weight = y @ basis, basis / np.asarray(self.rest)[:, None] ** 2
        for i in np.flatnonzero((seen.mean(axis=1) >= 1.0 - MOST_MISSING) & ~seen.all(axis=1)):
            there = seen[i]
            precision = weight[there].T @ basis[there] + np.diag(np.asarray(self.scale) ** -2.0)
            z[i] = np.linalg.solve(precision, weight[there].T @ y[i, there])
        return z

    def filled(self, y: np.ndarray) -> np.ndarray:
        """Stretched flux whose missing pixels are as the components have them."""
        model = np.asarray(self.mean) + self.scores(y - np.asarray(self.mean)) @ np.asarray(self.basis).T
        return np.where(np.isfinite(y), y, model)

    def near(self, z: np.ndarray, level: np.ndarray) -> Array:
        """What networks see: noise level and components, the far ones brought near, (n_star, 1 + n_dim)."""
        return jnp.asarray(np.column_stack([level, np.clip(z, -FAR, FAR)]), jnp.float32)

    def noise_level(self, flux: np.ndarray, flux_err: np.ndarray) -> np.ndarray:
        """Log of the median error in units of the median flux, scaled; 0 where no error is known. (n_star, 1)."""
        level = (log_level(flux, flux_err) - self.level[0]) / self.level[1]
        return np.clip(np.where(np.isfinite(level), level, 0.0), -3.0, 3.0)


def log_level(flux: np.ndarray, flux_err: np.ndarray) -> np.ndarray:
    """Log of a spectrum's median error in units of its median flux.

    Args:
        flux, flux_err: (n_star, n_pix).

    Returns:
        (n_star, 1); NaN where there is none.

    Errors:
        None.

    Example:
        >>> log_level(np.ones((1, 3)), np.full((1, 3), np.e)).tolist()
        [[1.0]]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(median_of(flux_err) / median_of(flux))


def components(flux: np.ndarray, flux_err: np.ndarray, n_dim: int, meta: np.ndarray | None = None) -> Components:
    """Principal components of training spectra, after the stretch.

    Args:
        flux, flux_err: (n_star, n_pix); stars with a missing pixel are left aside.
        n_dim: how many components, fewer than pixels.
        meta: (n_star, n_meta), as `Emulator.read` takes it.

    Returns:
        `Components`.

    Errors:
        None.

    Example:
        >>> found = components(tiny_spectra().flux, tiny_spectra().flux_err, 3)
        >>> found.basis.shape
        (6, 3)
    """
    y = stretched(flux)
    y = y[np.isfinite(y).all(axis=1)]
    mean = y.mean(axis=0)
    basis = np.linalg.svd(y - mean, full_matrices=False)[2][:n_dim].T
    z = (y - mean) @ basis
    level = log_level(flux, flux_err)
    some = level[np.isfinite(level)]
    rest = np.sqrt(((y - mean - z @ basis.T) ** 2).mean(axis=0))
    spread = max(float(some.std()), 0.05) if some.size else 1.0
    told = np.array([some.mean() if some.size else 0.0, spread])
    beside = np.zeros((2, 0)) if meta is None else np.stack([np.nanmean(meta, axis=0), np.nanstd(meta, axis=0)])
    return Components(mean, basis, z.std(axis=0), np.maximum(rest, 1e-6), told, beside)


@pytree
class Seen:
    """Spectra as the networks take them.

    Attributes:
        near: noise level and components, the far ones brought near, (n_star, 1 + n_dim).
        lifted: what they contribute to each network, (n_star, n_net, ...).
        z: the components as they are, (n_star, n_dim).
        rest: misfit of what they leave, (n_star,).
    """

    near: AnyArray
    lifted: Any
    z: AnyArray
    rest: AnyArray


@pytree
class AutoregressiveEmulator(Emulator):
    """Spectra as components, whose density given the labels is that of `hbcal.networks.autoregressive`, several times.

        ln p(spectrum | x) = T / n_net sum_m ln p_m(z | x)

    Networks that saw other stars, other starts and other orders disagree where the emulator is unsure: their geometric
    mean is flatter there. T, below 1, says how much flatter the density of unseen stars has to be for its posteriors to
    hold what they claim; it is fitted on stars that no network was trained on.

    Attributes:
        known: `Known`.
        components: what a spectrum is turned into.
        temper: T.
        states: weights of the networks, with a leading axis.
        guide: weights of `hbcal.networks.guide.Guide`.
        graph, guide_graph: how the weights are used.
    """

    known: Known
    components: Components
    temper: AnyArray
    states: Any
    guide: Any
    graph: Any = static()
    guide_graph: Any = static()

    def read(
        self, flux: np.ndarray, flux_err: np.ndarray, meta: np.ndarray | None = None, corr: np.ndarray | None = None
    ) -> tuple[Seen, np.ndarray]:
        """Components, what they contribute to each network, and the misfit of what components leave."""
        z, level, rest = self.components.of(flux, flux_err, meta)
        near, why = self.components.near(z, level), why_not(flux, MOST_MISSING, LONGEST)
        if meta is not None:
            why = np.where((why == "") & ~np.isfinite(meta).all(axis=1), NO_META, why)
        return Seen(near, _lift(self.graph, self.states, near), z, rest), why

    def log_likelihood(self, x: Float[Array, " n_label"], star: Seen) -> Array:
        """T times the mean over the networks of ln p_m(z | x)."""
        x = x.astype(jnp.float32)
        each = [net.log_density(x, jnp.asarray(star.near)[1:], up) for net, up in self._nets(star)]
        return jnp.asarray(self.temper) * jnp.stack(each).mean().astype(float)

    def misfit(self, x: Float[Array, " n_label"], star: Seen) -> Array:
        """Half from the components, half from what they leave."""
        x = x.astype(jnp.float32)
        mean, log_sd = (
            jnp.stack(each).mean(0) for each in zip(*(n.moments(x, up) for n, up in self._nets(star)), strict=True)
        )
        white = (star.z - mean.astype(float)) / jnp.exp(log_sd.astype(float))
        return 0.5 * ((white**2).mean() + jnp.asarray(star.rest))

    def _nets(self, star: Seen) -> list[tuple[Autoregressive, Any]]:
        """Network after network, not batched: a batch of matrix products is slower than one after the other."""
        at = lambda tree, m: jax.tree.map(lambda leaf: leaf[m], tree)  # noqa: E731
        n_net = len(jax.tree.leaves(self.states)[0])
        return [(nnx.merge(self.graph, at(self.states, m)), at(star.lifted, m)) for m in range(n_net)]

    def predict(self, x: Float[Array, " n_label"]) -> Predicted:
        """Moments of spectra drawn component by component from every network, at the training stars' noise level.

        A density to the power T, were it Gaussian, has a covariance larger by 1 / T.
        """
        told, x = self.components, x.astype(jnp.float32)
        n_dim = told.basis.shape[1]
        n_net = len(jax.tree.leaves(self.states)[0])
        noise = jax.random.normal(jax.random.PRNGKey(0), (n_net, N_DRAW, n_dim), jnp.float32)

        def drawn(given: tuple[Any, Array]) -> Array:
            net = nnx.merge(self.graph, given[0])
            wide = net.mean_out.kernel[...].shape[1]

            def step(k: Array, seen: Array) -> Array:
                mean, log_sd = net.moments(jnp.broadcast_to(x, (N_DRAW, len(x))), net.lift(seen))
                z = mean[:, k] + jnp.exp(log_sd[:, k]) * given[1][:, k]
                return seen.at[:, 1 + k].set(jnp.clip(z, -FAR, FAR))

            return jax.lax.fori_loop(0, n_dim, step, jnp.zeros((N_DRAW, 1 + wide), jnp.float32))[:, 1 : 1 + n_dim]

        z = jax.lax.map(drawn, (self.states, noise)).reshape(-1, n_dim).astype(float)
        cov = jnp.cov(z.T).reshape(n_dim, n_dim) / jnp.asarray(self.temper) + 1e-9 * jnp.eye(n_dim)
        basis = jnp.asarray(told.basis) * jnp.asarray(told.scale)[None]
        mean = jnp.asarray(told.mean) + basis @ z.mean(axis=0)
        return Predicted(mean, jnp.asarray(told.rest) ** 2, basis @ jnp.linalg.cholesky(cov))

    def guess(self, stars: Seen) -> tuple[Array, Array]:
        """The guide's answer: centres (n_star, n_label), and roots of covariances (n_star, n_label, n_label)."""
        mean, root = nnx.merge(self.guide_graph, self.guide)(stars.near)
        upright = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
        turned = jax.scipy.linalg.solve_triangular(root, upright, lower=True)
        return mean.astype(float), jnp.swapaxes(turned, -1, -2).astype(float)


@jax.jit
def _lift(graph: Any, states: Any, seen: Array) -> Any:
    up = jax.vmap(lambda state: nnx.merge(graph, state).lift(seen))(states)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), up)  # stars lead
