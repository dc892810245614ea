"""A first guess of the label posterior, from the spectrum alone, in a matrix product or three."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.special import gammaln

from hbcal._typing import Array, Float
from hbcal.numerics.importance import DOF

SURE, VAGUE = -5.0, 2.0  # bounds of the log diagonal of the precision's root, turned round


class Guide(nnx.Module):
    """q(x | s) = t_5(m(s), (A(s) A(s)')^-1): where a sampler starts, and what importance sampling corrects.

    Args:
        n_in, n_label: numbers that describe a spectrum, and labels.
        hidden: width of the two hidden layers.
        dropout: share of hidden units silenced in training.
        rngs: streams ``params`` and ``dropout``.
    """

    def __init__(self, n_in: int, n_label: int, *, hidden: int, dropout: float, rngs: nnx.Rngs):
        n_root = n_label * (n_label + 1) // 2
        self.first = nnx.Linear(n_in, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, n_label + n_root, rngs=rngs)
        self.skip = nnx.Linear(n_in, n_label, use_bias=False, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.n_label = n_label

    def __call__(self, s: Float[Array, "*batch n_in"]) -> tuple[Array, Array]:
        """The mean, and A: lower triangular, a root of the precision."""
        h = self.dropout(nnx.gelu(self.first(s)))
        h = self.dropout(nnx.gelu(self.second(h)))
        out, n = self.out(h), self.n_label
        rows, columns = np.tril_indices(n)
        off = np.flatnonzero(rows != columns)
        diagonal = jnp.exp(-jnp.clip(out[..., n : 2 * n], SURE, VAGUE))
        root = jnp.zeros((*out.shape[:-1], n, n), out.dtype)
        root = root.at[..., np.arange(n), np.arange(n)].set(diagonal)
        root = root.at[..., rows[off], columns[off]].set(out[..., 2 * n :])
        return out[..., :n] + self.skip(s), root

    def log_density(self, x: Float[Array, "*batch n_label"], s: Float[Array, "*batch n_in"]) -> Array:
        """ln q(x | s) of labels (..., n_label) of each star, or of several draws, (..., n_draw, n_label)."""
        mean, root = self(s)
        if x.ndim > mean.ndim:
            mean, root = mean[..., None, :], root[..., None, :, :]
        white = jnp.einsum("...l,...lm->...m", x - mean, root)
        log_det = jnp.log(jnp.einsum("...ll->...l", root)).sum(-1)
        n = self.n_label
        norm = gammaln(0.5 * (DOF + n)) - gammaln(0.5 * DOF) - 0.5 * n * np.log(np.pi * DOF)
        return log_det + float(norm) - 0.5 * (DOF + n) * jnp.log1p((white**2).sum(-1) / DOF)
