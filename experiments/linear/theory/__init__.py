"""Algorithm 2 on the linear regressor, its theorem, and what it is compared with.

numpy in float64 throughout; docs/theory.md has the statements and the derivations.
"""

from experiments.linear.theory.algorithms import Trajectory, alt_min_gd, fedavg_lora, ffa
from experiments.linear.theory.bounds import (
    contraction,
    ffa_floor,
    population_bound,
    restarted_bound,
    share_above_bound,
    step_size,
    theorem_bound,
)
from experiments.linear.theory.problem import Regression, Setting, draw_problems, orthonormal, sine

__all__ = [
    "Regression",
    "Setting",
    "Trajectory",
    "alt_min_gd",
    "contraction",
    "draw_problems",
    "fedavg_lora",
    "ffa",
    "ffa_floor",
    "orthonormal",
    "population_bound",
    "restarted_bound",
    "share_above_bound",
    "sine",
    "step_size",
    "theorem_bound",
]
