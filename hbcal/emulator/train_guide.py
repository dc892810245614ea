"""Teach the guide what the emulator's own posteriors look like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from hbcal._typing import Array
from hbcal.emulator.autoregressive import AutoregressiveEmulator
from hbcal.networks.autoregressive import asleep
from hbcal.networks.guide import Guide
from hbcal.networks.train import TrainSettings, fit

HELD = 0.1


def tune_guide(
    emulator: AutoregressiveEmulator, flux: np.ndarray, flux_err: np.ndarray, draws: np.ndarray, share: np.ndarray,
    settings: TrainSettings, *, dropout: float, meta: np.ndarray | None = None, state: Path | None = None,
) -> tuple[AutoregressiveEmulator, np.ndarray]:  # fmt: skip
    """The emulator with a guide that has seen weighted draws of its posteriors.

    A guide that learns from the true labels aims at the posterior of a perfect emulator; importance sampling loses
    draws where this one's differs. So the guide is trained on, star by star, by

        loss = - sum_d share_d ln q(x_d | spectrum).

    Args:
        emulator: trained, with a guide.
        flux, flux_err: (n_star, n_pix).
        draws: scaled labels, (n_star, n_draw, n_label).
        share: of each draw, (n_star, n_draw).
        settings: of the training.
        dropout: share of hidden units silenced.
        meta: (n_star, n_meta), as `Emulator.read` takes it.
        state: file to keep the state of training in.

    Returns:
        The emulator, and the learning curve.

    Errors:
        None.

    Example:
        >>> from hbcal.emulator.train_network import NetworkSettings, train_networks
        >>> spectra, known = tiny_spectra(), tiny_emulator().known
        >>> x = (spectra.labels - known.centre) / known.unit
        >>> few = NetworkSettings(n_dim=5, n_lead=2, n_net=1, hidden=8, train=TrainSettings(epochs=2))
        >>> exact, rows = (x, np.zeros((400, 2, 2)), np.full(2, 0.1)), (np.arange(40), np.arange(40, 400))
        >>> emulator, _ = train_networks(known, spectra.flux, spectra.flux_err, *exact, *rows, few)
        >>> share = np.ones((400, 1))
        >>> _, curve = tune_guide(
        ...     emulator, spectra.flux, spectra.flux_err, x[:, None], share, TrainSettings(epochs=30), dropout=0.0)
        >>> bool(curve[-1, 0] < curve[0, 0])
        True

    Source: inference compilation, Le et al. 2017, AISTATS; reweighted wake-sleep, Bornschein and Bengio 2015, ICLR.
    """
    z, level, _ = emulator.components.of(flux, flux_err, meta)
    near = emulator.components.near(z, level)
    table = {"seen": near, "x": jnp.asarray(draws, jnp.float32), "share": jnp.asarray(share, jnp.float32)}
    n_held = max(round(HELD * len(near)), 1)
    order = np.random.default_rng(settings.seed).permutation(len(near))
    data, held = ({name: leaf[rows] for name, leaf in table.items()} for rows in (order[n_held:], order[:n_held]))
    guide: Guide = nnx.merge(emulator.guide_graph, emulator.guide, copy=True)
    guide.dropout = nnx.Dropout(dropout, rngs=nnx.Rngs(dropout=settings.seed))

    def told(guide: Guide, batch: dict[str, Array]) -> Array:
        return (batch["share"] * guide.log_density(batch["x"], batch["seen"])).sum(1).mean()

    curve = fit(
        guide, lambda net, batch, key: -told(net, batch), lambda net: told(net, held), data, settings, state=state
    )
    graph, found = asleep(guide)
    return replace(emulator, guide=found, guide_graph=graph), curve
