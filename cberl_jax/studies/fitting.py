"""How many members fit the memory of a device, by what the compiler states."""

from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from cberl_jax.errors import TooLarge
from cberl_jax.runtime import processes
from cberl_jax.runtime.signals import Stopper
from cberl_jax.training.fleet import Fleet, memory_of_device
from cberl_jax.training.loop import Training
from cberl_jax.training.prepare import Members, Prepared

# Members on one device at most unless told otherwise: the programs gain nothing from more, and a
# chunk's results are there earlier.
MOST_MEMBERS = 64
STAGES = ("gan", "joint")


def even_chunks(members: int, most: int, folds: int = 1) -> int:
    """Members in a chunk when ``members`` are divided into as few chunks as ``most`` allows.

    Args:
      members: of all chunks.
      most: in a chunk, if that holds all folds of a seed.
      folds: members that are not taken apart.
    """
    seeds, most = members // folds, max(1, most // folds)
    return folds * -(-seeds // -(-seeds // most))


def _compile_first(
    prepared: Prepared,
    config: ConfigDict,
    members: Members,
    size: int,
    stopper: Stopper,
    stages: Sequence[str],
) -> tuple[Fleet, list[tuple[int, int]]]:
    """A fleet of ``size`` members whose stages are compiled, but not run; their memory."""
    fleet = Fleet(prepared.program, size)
    first = members.part(0, size)
    training = Training(prepared, config, first, fleet, None, stopper, None)
    training.place_data()
    compiled = [stage for stage in fleet.stages if stage in stages]
    training.compile_ahead(compiled)
    for stage in compiled:
        training.compile(stage)
    return fleet, [training.memory(stage) for stage in compiled]


def fit_fleet(
    prepared: Prepared,
    config: ConfigDict,
    members: Members,
    stopper: Stopper,
    stages: Sequence[str] = STAGES,
) -> Fleet:
    """Finds how many members fit, by the memory that the compiler states for the programs.

    Nothing is run, so nothing can run out of memory. Where the first guess fits there is no second
    compilation.

    Args:
      prepared: the group's data and program.
      config: the group's settings.
      members: of the group.
      stopper: a signal ends the process while it compiles.
      stages: those that the members are to be trained in.

    Returns:
      The fleet, its stages compiled.

    Raises:
      TooLarge: a single member does not fit.
    """
    most = MOST_MEMBERS * len(jax.devices())
    size = even_chunks(len(members.seeds), most, members.folds)
    budget = processes.broadcast([float(memory_of_device())])[0]
    while True:
        fleet, needs = _compile_first(prepared, config, members, size, stopper, stages)
        if max(total for _, total in needs) <= budget:
            return fleet
        if size == members.folds:
            what = "one member needs" if size == 1 else f"{size} folds of one seed need"
            raise TooLarge(
                f"{what} {max(total for _, total in needs) / 2**30:.1f} GiB and "
                f"{budget / 2**30:.1f} are there: lower model.hidden or train.rows_per_batch"
            )
        fits = int(budget // max(member for member, _ in needs)) * len(jax.devices())
        size = even_chunks(len(members.seeds), max(1, min(fits, size - 1)), members.folds)
