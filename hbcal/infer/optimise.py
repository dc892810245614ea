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

ROUNDS, STEPS = 12, 60


class Mode:
    """Finds the mode of a program's log density in unconstrained space, again and again without recompiling.

    L-BFGS in coordinates in which the curvature is one: the numbers of a calibration differ in their precision by ten
    orders of magnitude, and plain L-BFGS stops thousands of units of log density short.

    Args:
        task: program, data and start; later calls may change the data, not its shapes.
    """

    def __init__(self, task: Task):
        potential = Potential(task)
        args = jax.device_put(task.args)
        start, unravel = ravel_pytree(potential.start(args))
        self._at, self._spread = np.asarray(start), np.asarray(ravel_pytree(potential.spread(args))[0])
        self._hessian = np.zeros((0, 0))  # where last looked

        def energy(flat, args):
            return potential.energy(unravel(flat), args)

        def curve(flat, direction, args):
            return jax.jvp(lambda x: jax.grad(energy)(x, args), (flat,), (direction,))[1]

        self._value_and_grad = jax.jit(jax.value_and_grad(energy))
        self._curve = jax.jit(curve)  # a row of the Hessian: two thirds of the whole one's time to compile, or less
        self._sites = jax.jit(lambda flat, args: potential.sites(unravel(flat), args))

    def __call__(self, args: tuple[Any, ...]) -> Mapping[str, np.ndarray]:
        """The mode for these data, started where the last call ended; sites in their own units."""
        args = jax.device_put(args)
        self.converged = not self._at.size
        for _ in range(ROUNDS if self._at.size else 0):
            values, vectors = np.linalg.eigh(self._hessian if self._hessian.size else self._look(args))
            scale = vectors / np.sqrt(np.maximum(np.abs(values), 1.0))
            origin = self._at + scale @ (values < -1.0)  # off a saddle (a folded site at zero) by one unit

            def objective(step: np.ndarray, origin=origin, scale=scale) -> tuple[float, np.ndarray]:
                value, grad = self._value_and_grad(origin + scale @ step, args)
                return float(value), scale.T @ np.asarray(grad)

            begin = objective(np.zeros(len(values)))[0]
            found = minimize(
                objective, np.zeros(len(values)), jac=True, method="L-BFGS-B",
                options={"maxiter": STEPS, "ftol": 1e-4 / max(abs(begin), 1.0)},
            )  # fmt: skip
            self._at = origin + scale @ found.x
            values, _ = np.linalg.eigh(self._look(args))
            self.converged = bool(values.min() >= -1.0 and found.success and begin - found.fun < 1.0)
            if self.converged:
                break
        return {k: np.asarray(v) for k, v in self._sites(self._at, args).items()}

    def _look(self, args: tuple[Any, ...]) -> np.ndarray:
        self._hessian = np.asarray([self._curve(self._at, row, args) for row in np.eye(self._at.size)])
        return self._hessian

    def inverse_mass(self) -> np.ndarray:
        """Laplace's covariance at the mode last found, unconstrained, sites in alphabetical order; NUTS starts with it.

        Directions in which the energy is not convex get the prior's variance. What counts as flat is told in units of
        the prior's sd: a zero point known to 50 K has a curvature of 0.0004 per K^2, and is well known.
        """
        scale = self._spread
        values, vectors = np.linalg.eigh(scale[:, None] * self._hessian * scale)
        return scale[:, None] * ((vectors / np.where(values > 1e-3, values, 1.0)) @ vectors.T) * scale
