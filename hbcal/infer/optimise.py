"""The posterior's mode over the sampled sites of any program: a start for NUTS, a reference for clipping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from hbcal.infer.potential import Potential
from hbcal.infer.task import Task


class Mode:
    """Finds the mode of a program's log density in unconstrained space (L-BFGS), again and again without recompiling.

    Args:
        task: program, data and start; later calls may change the data, not its shapes.
    """

    def __init__(self, task: Task):
        potential = Potential(task)
        self._at, unravel = ravel_pytree(potential.start(jax.device_put(task.args)))
        self._value_and_grad = jax.jit(jax.value_and_grad(lambda flat, args: potential.energy(unravel(flat), args)))
        self._hessian = jax.jit(jax.hessian(lambda flat, args: potential.energy(unravel(flat), args)))
        self._sites = jax.jit(lambda flat, args: potential.sites(unravel(flat), args))

    def __call__(self, args: tuple[Any, ...], max_steps: int = 200) -> Mapping[str, np.ndarray]:
        """The mode for these data, started where the last call ended; sites in their own units."""
        args = jax.device_put(args)
        if self._at.size:

            def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
                value, grad = self._value_and_grad(flat, args)
                return float(value), np.asarray(grad)

            found = minimize(
                objective, np.asarray(self._at), jac=True, method="L-BFGS-B", options={"maxiter": max_steps}
            )
            self._at = found.x
        return {k: np.asarray(v) for k, v in self._sites(self._at, args).items()}

    def inverse_mass(self, args: tuple[Any, ...]) -> np.ndarray:
        """Laplace's covariance at the mode, unconstrained, sites in alphabetical order; NUTS starts with it.

        Directions in which the energy is not convex get unit variance.
        """
        values, vectors = np.linalg.eigh(np.asarray(self._hessian(self._at, jax.device_put(args))))
        return (vectors / np.where(values > 1e-3, values, 1.0)) @ vectors.T
