"""A spectrum's components, one after the other: each is Gaussian given the labels and the components before it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hbcal._typing import Array, Float

LOG_2PI = float(np.log(2 * np.pi))
GAINS = (0.35, 0.7, 2.8)  # of the first layers and the middle one
NARROWEST, WIDEST = -6.0, 4.0  # of a log sd, in units of the component's scatter over the training stars


class Fixed(nnx.Variable):
    """What training leaves alone: the masks."""


class Masked(nnx.Module):
    """A linear layer some of whose weights are zero for good.

    Args:
        mask: (n_in, n_out) of 0 and 1.
        gain: scale of the random start.
        rngs: of the start.
    """

    def __init__(self, mask: np.ndarray, gain: float, rngs: nnx.Rngs):
        scale = gain / np.sqrt(np.maximum(mask.sum(axis=0, keepdims=True), 1.0))
        self.kernel = nnx.Param(
            jnp.asarray(scale, jnp.float32) * jax.random.normal(rngs.params(), mask.shape, jnp.float32)
        )
        self.bias = nnx.Param(jnp.zeros(mask.shape[1], jnp.float32))
        self.mask = Fixed(jnp.asarray(mask, jnp.float32))

    def __call__(self, x: Array) -> Array:
        """X (kernel * mask) + bias."""
        out = x @ (self.kernel[...] * self.mask[...])
        return out + jnp.broadcast_to(self.bias[...], out.shape)


class Autoregressive(nnx.Module):
    """p(z | x, c) = prod_k N(z_k; m_k, s_k^2), where m_k and log s_k hang on labels x, context c and z_1 ... z_{k-1}.

    Given the components before it, a component's mean is linear in all of them and a network of the labels and of the
    first `n_lead`; its log sd is the network's alone. The first components of a spectrum tell what labels do not,
    reddening above all: the others' means and scatters bend with them.

    Args:
        n_label, n_context, n_dim: how many labels, numbers of context, and components.
        n_lead: how many components the network sees; the rest enter linearly.
        hidden: widths of the two hidden layers.
        dropout: share of hidden units silenced in training.
        rngs: streams ``params`` and ``dropout``.

    Source: MADE (Germain et al. 2015, ICML) and masked autoregressive flows (Papamakarios et al. 2017, NIPS).
    """

    def __init__(
        self, n_label: int, n_context: int, n_dim: int, *, n_lead: int, hidden: tuple[int, int], dropout: float,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        seen, first, second = _degrees(n_context, n_dim, n_lead, hidden)
        out = np.arange(n_dim)
        below = lambda a, b: (a[:, None] <= b[None, :]).astype(float)  # noqa: E731
        self.labels_in = Masked(np.ones((n_label, hidden[0])), GAINS[0], rngs)
        self.seen_in = Masked(below(seen, first), GAINS[1], rngs)
        self.middle = Masked(below(first, second), GAINS[2], rngs)
        self.mean_out = Masked(below(second, out), 0.0, rngs)
        self.log_sd_out = Masked(below(second, out), 0.0, rngs)
        self.labels_skip = Masked(np.ones((n_label, n_dim)), 0.0, rngs)
        every = np.concatenate([np.zeros(n_context), np.arange(1, n_dim + 1)])
        self.seen_skip = Masked(below(every, out), 0.0, rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def lift(self, seen: Float[Array, "*batch n_seen"]) -> tuple[Array, Array]:
        """What context and components contribute to the first layer and to the means: it does not hang on labels."""
        return self.seen_in(seen), self.seen_skip(seen)

    def moments(self, x: Float[Array, "*batch n_label"], lifted: tuple[Array, Array]) -> tuple[Array, Array]:
        """Mean and log sd of every component, (..., n_dim)."""
        h = self.dropout(nnx.gelu(self.labels_in(x) + lifted[0]))
        h = self.dropout(nnx.gelu(self.middle(h)))
        mean = self.mean_out(h) + self.labels_skip(x) + lifted[1]
        return mean, jnp.clip(self.log_sd_out(h), NARROWEST, WIDEST)

    def log_density(self, x: Float[Array, "*batch n_label"], z: Array, lifted: tuple[Array, Array]) -> Array:
        """ln p(z | x, c)."""
        mean, log_sd = self.moments(x, lifted)
        white = (z - mean) * jnp.exp(-log_sd)
        return -(0.5 * white**2 + log_sd + 0.5 * LOG_2PI).sum(-1)


def _degrees(n_context: int, n_dim: int, n_lead: int, hidden: tuple[int, int]) -> list[np.ndarray]:
    """How many components each input stands for, and each hidden unit may see; two thirds of the units see all leads.

    Component k (from 0) may hang on units of degree k or less, so the input z_k has degree k + 1.
    """
    n_lead = min(n_lead, n_dim - 1)
    leads = np.arange(1, n_dim + 1)
    seen = np.concatenate([np.zeros(n_context), np.where(leads <= n_lead, leads, np.inf)])
    widths = []
    for width in hidden:
        degree = np.minimum((np.linspace(0.0, 1.0, width) * (n_lead + 1)).astype(int), n_lead)
        degree[width // 3 :] = n_lead
        widths.append(degree)
    return [seen, *widths]


def linear_start(net: Autoregressive, x: np.ndarray, seen: np.ndarray) -> None:
    """Give a network the linear model that is best where components know nothing but what stands before them.

    Args:
        net: to change, in place.
        x: labels, (n_star, n_label).
        seen: context and components, (n_star, n_context + n_dim).

    Returns:
        Nothing.

    Errors:
        None.

    Example:
        >>> net = Autoregressive(1, 0, 2, n_lead=1, hidden=(8, 8), dropout=0.0, rngs=nnx.Rngs(0))
        >>> x = np.random.default_rng(0).normal(size=(500, 1))
        >>> seen = np.c_[2.0 * x + 0.1 * np.random.default_rng(1).normal(size=(500, 1)), -x]
        >>> linear_start(net, x, seen)
        >>> [round(float(v), 1) for v in net.labels_skip.kernel[...][0]]
        [2.0, -1.0]
    """
    n_label, n_dim = x.shape[1], net.mean_out.mask[...].shape[1]
    n_before = seen.shape[1] - n_dim
    table = np.concatenate([x, seen], axis=1)
    kernel, bias, log_sd = np.zeros((table.shape[1], n_dim)), np.zeros(n_dim), np.zeros(n_dim)
    for k in range(n_dim):
        known = np.column_stack([table[:, : n_label + n_before + k], np.ones(len(x))])
        y = seen[:, n_before + k]
        gram = known.T @ known + 1e-6 * len(x) * np.eye(known.shape[1])
        found = np.linalg.solve(gram, known.T @ y)
        kernel[: n_label + n_before + k, k], bias[k] = found[:-1], found[-1]
        log_sd[k] = np.log(max(float((y - known @ found).std()), np.exp(NARROWEST)))
    put = lambda v: jnp.asarray(v, jnp.float32)  # noqa: E731
    net.labels_skip.kernel.set_value(put(kernel[:n_label]))
    net.seen_skip.kernel.set_value(put(kernel[n_label:]))
    net.mean_out.bias.set_value(put(bias))
    net.log_sd_out.bias.set_value(put(log_sd))


def stacked(nets: list[Autoregressive]) -> tuple[Any, Any]:
    """Several networks of one shape as one.

    Args:
        nets: at least one.

    Returns:
        Their common graph, and their states with a leading axis.

    Errors:
        None.

    Example:
        >>> nets = [
        ...     Autoregressive(1, 0, 2, n_lead=1, hidden=(8, 8), dropout=0.0, rngs=nnx.Rngs(k)) for k in range(3)
        ... ]
        >>> _, states = stacked(nets)
        >>> states["middle"]["kernel"][...].shape
        (3, 8, 8)
    """
    parts = [asleep(net) for net in nets]
    return parts[0][0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in parts))


def asleep(net: Any) -> tuple[Any, Any]:
    """A network that has been trained: its graph and its state, without dropout and its random numbers.

    Args:
        net: with a submodule ``dropout``; changed in place.

    Returns:
        Graph and state.

    Errors:
        None.

    Example:
        >>> net = Autoregressive(1, 0, 2, n_lead=1, hidden=(8, 8), dropout=0.5, rngs=nnx.Rngs(0))
        >>> "dropout" in asleep(net)[1]
        False
    """
    net.dropout = nnx.Dropout(0.0, deterministic=True)
    net.eval()
    return nnx.split(net)
