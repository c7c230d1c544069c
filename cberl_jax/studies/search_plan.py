"""What a search is asked for: where to look, for how long, and by which sampler."""

from numbers import Integral, Real
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from cberl_jax.config.grid import data_settings
from cberl_jax.config.space import Space, check_feasible, static_choices
from cberl_jax.errors import UserError
from cberl_jax.studies.points import ALONE, Execution, check_data
from cberl_jax.studies.trials import SAMPLERS

# Points in a batch at most and at least, and batches of a longer search at least, where no number
# is asked for: the sampler learns from a batch what it needs for the next one. With fewer points
# TPE stays near the first good one.
MOST_POINTS, FEWEST_POINTS, FEWEST_BATCHES = 32, 8, 16


class Plan(NamedTuple):
    """What a search is asked for.

    Attributes:
      space: where to look.
      trials: points in all; None for as many as the time allows.
      hours: after which no batch begins; None for any time.
      seeds: per point, from 0; its score is their mean.
      sampler: one of ``trials.SAMPLERS``.
      batch: points that are chosen together; by default a sixteenth of all, 8 to 32.
      best_seeds: of each of the best points when they are trained again.
      storage: URL of the study; by default a file in the folder.
      seed: of the sampler.
      halving: whether the worse half of a batch stops after an eighth of the epochs, and the worse
        half of the others after a quarter and after a half.
    """

    space: Space
    trials: int | None = None
    hours: float | None = None
    seeds: int = 2
    sampler: str = "tpe"
    batch: int | None = None
    best_seeds: int = 8
    storage: str | None = None
    seed: int = 0
    halving: bool = False

    @property
    def points(self) -> int:
        """How many points are in a batch."""
        trials = self.trials or 128
        points = min(MOST_POINTS, max(FEWEST_POINTS, trials // FEWEST_BATCHES))
        return self.batch or min(trials, points)


def check_plan(config: ConfigDict, plan: Plan, execution: Execution = ALONE) -> None:
    """Refuses a plan that nothing could follow, before anything is written.

    Raises:
      UserError: naming what is wrong.
    """
    if plan.trials is None and plan.hours is None:
        raise UserError("say how long to search: --trials=256, --hours=2, or both")
    for name in ("trials", "hours", "seeds", "batch", "best_seeds"):
        value, kind = getattr(plan, name), Real if name == "hours" else Integral
        if value is not None and not (isinstance(value, kind) and value > 0):
            what = "number" if name == "hours" else "whole number"
            raise UserError(f"{name} = {value!r}: has to be a {what} greater than 0")
    if plan.sampler not in SAMPLERS:
        raise UserError(f"sampler = {plan.sampler!r}: has to be one of {', '.join(SAMPLERS)}")
    if not plan.space:
        raise UserError("the space is empty: every setting of it is fixed")
    check_feasible(config, plan.space)
    choices = data_settings(static_choices(plan.space))
    data = [(name, value) for name, values in choices.items() for value in values]
    check_data(config, [{}, *(dict([choice]) for choice in data)], execution)
    if jax.process_count() > 1:
        raise UserError("a search has no use for several processes of one program: start several")
