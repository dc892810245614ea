"""A program as a function of unconstrained numbers: where NUTS and L-BFGS move.

NumPyro's own initialisation evaluates the program step by step, uncompiled; for a program of some hundred operations
that is seconds per process. Here everything goes through one compilation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.handlers import reparam, seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy, unconstrain_fn

from hbcal._typing import Array
from hbcal.infer.fold import SUFFIX, Fold
from hbcal.infer.task import Task


class Potential:
    """Potential energy -log p(z) - log |Jacobian| of a task's program, as pure functions of (z, args).

    Args:
        task: program, arguments and start.
    """

    def __init__(self, task: Task):
        self.task, self._kwargs = task, dict(task.kwargs)
        self._program = reparam(task.program, config={name: Fold() for name in task.fold})
        self._begin = jax.jit(self._unconstrained)  # compiled once for all starts of a task

    def energy(self, z: Mapping[str, Array], args: tuple[Any, ...]) -> Array:
        """Potential energy at unconstrained z."""
        bent, log_det = self._bent(z)
        return potential_energy(self._program, args, self._kwargs, bent) - log_det

    def sites(self, z: Mapping[str, Array], args: tuple[Any, ...]) -> dict[str, Array]:
        """Sampled sites, in their own units, at unconstrained z."""
        return constrain_fn(self._program, args, self._kwargs, self._bent(z)[0], return_deterministic=True)

    def straight(self, sites: Mapping[str, Array], args: tuple[Any, ...]) -> dict[str, Array]:
        """Unconstrained z of sites in their own units: the inverse of `sites`."""
        z = unconstrain_fn(self._program, args, self._kwargs, sites)
        return self.task.ring.straight(z) if self.task.ring else z

    def _bent(self, z: Mapping[str, Array]) -> tuple[Mapping[str, Array], Array | float]:
        return self.task.ring.bent(z) if self.task.ring else (z, 0.0)

    def start(self, args: tuple[Any, ...], values: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """Unconstrained start: values, by default the task's; the median of prior draws for sites they do not give."""
        given = self.task.start if values is None else values
        named = {f"{k}{SUFFIX}" if k in self.task.fold else k: jnp.asarray(v) for k, v in given.items()}
        return self._begin(named, args)

    def _unconstrained(self, named: Mapping[str, Any], args: tuple[Any, ...]) -> dict[str, Array]:
        draws = jax.vmap(lambda key: self._draw(key, named, args))(self._keys())
        return self.straight({**jax.tree.map(lambda x: jnp.median(x, axis=0), draws), **named}, args)

    def spread(self, args: tuple[Any, ...]) -> dict[str, Array]:
        """The sd of a few prior draws, unconstrained: the unit in which a curvature is large or small."""

        def unconstrained(args):
            draws = jax.vmap(lambda key: self.straight(self._draw(key, {}, args), args))(self._keys())
            return jax.tree.map(lambda x: jnp.std(x, axis=0), draws)

        return jax.jit(unconstrained)(args)

    def _keys(self) -> Array:
        return jax.random.split(jax.random.PRNGKey(0), 15)

    def _draw(self, key: Array, given: Mapping[str, Any], args: tuple[Any, ...]) -> dict[str, Array]:
        """A prior draw of the latent sites, some of them given."""
        run = trace(seed(substitute(self._program, data=given), key))
        sites = run.get_trace(*args, **self._kwargs)
        return {k: v["value"] for k, v in sites.items() if v["type"] == "sample" and not v["is_observed"]}
