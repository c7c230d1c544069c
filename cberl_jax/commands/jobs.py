"""How a sweep or an ablation is carried out: flags, and a script for an array of SLURM jobs."""

import os
import pathlib
import re
import shlex
import sys
from typing import TYPE_CHECKING

from absl import flags

from cberl_jax import cli
from cberl_jax.errors import UserError

if TYPE_CHECKING:
    from cberl_jax.studies.points import Execution, Part

# The flags that a function here defines belong to the command that calls it.
flags.disclaim_key_flags()

ARRAY = "array"
_PART = re.compile(r"(\d+)/(\d+)")
SCRIPT = """#!/bin/bash
# Edit these lines for your cluster: what a job needs, and for how long at most.
#SBATCH --job-name={name}
#SBATCH --array=1-{jobs}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
# A job that is preempted starts again. Two minutes before its time is over it gets SIGTERM, writes
# a checkpoint and ends with status 143; the last lines put it into the queue again.
#SBATCH --requeue
#SBATCH --signal=TERM@120

# Each job trains its part of the members; the last one to end writes the report.
srun {command} --part={part}
status=$?
if [ "$status" -eq 143 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$status"
"""


def define_execution(pictured: str) -> None:
    """Defines the flags that say how a study is carried out.

    Args:
      pictured: what has a report of its own, for the help.
    """
    flags.DEFINE_integer(
        "members_per_device", None, "Members trained at a time; by default as many as fit.", 1
    )
    cli.define_encoders(f"the {pictured}")
    flags.DEFINE_boolean("pictures", True, f"Whether the report of the {pictured} has pictures.")
    flags.DEFINE_string(
        "part",
        None,
        f"Train only a part of the members, such as 3/8, or {ARRAY}: that of a SLURM array job. "
        "All parts have one --workdir; the last to end writes the report.",
    )
    flags.DEFINE_boolean("collect", False, "Train nothing; write the report of all parts.")
    flags.DEFINE_string(
        "slurm", None, "Train nothing; write a SLURM script to this file, for --jobs array jobs."
    )
    flags.DEFINE_integer("jobs", 8, "Jobs of the script that --slurm writes.", 1)


def read_execution() -> "Execution":
    """The ``Execution`` that the flags ask for.

    Raises:
      UserError: flags are at fault.
    """
    from cberl_jax.runtime.progress import show_progress
    from cberl_jax.studies.points import Execution

    given = flags.FLAGS
    if given["jobs"].present and given.slurm is None:
        raise UserError("--jobs changes nothing without --slurm, whose script it is about")
    if given.part is not None and given.collect:
        raise UserError("--part trains and --collect does not: give one of them")
    part = None if given.part is None else parse_part(given.part)
    return Execution(
        given.members_per_device,
        part,
        given.collect,
        show_progress(),
        given.pictures,
        given.encoders,
    )


def parse_part(text: str) -> "Part":
    """Reads the value of ``--part``.

    Args:
      text: ``K/N``, or ``array`` for the part of this job in a SLURM array.

    Returns:
      The ``Part``.

    Raises:
      UserError: it is neither, or there is no such part, or this is no array job.
    """
    from cberl_jax.studies.points import Part

    if text == ARRAY:
        return Part(*_find_array_job())
    match = _PART.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part={text}: has to be K/N, such as 3/8, K from 1 to N, or {ARRAY}")
    return Part(int(match[1]), int(match[2]))


def _find_array_job() -> tuple[int, int]:
    """The number of this job among those of its SLURM array, from 1, and how many there are."""
    names = {n: f"SLURM_ARRAY_TASK_{n}" for n in ("ID", "MIN", "STEP", "COUNT")}
    values = {"STEP": 1}
    for key, name in names.items():
        text = os.environ.get(name, "")
        if text.isdecimal():
            values[key] = int(text)
        elif key != "STEP":
            raise UserError(
                f"--part={ARRAY}: {name} is {text or 'not set'}, so this is no job of a SLURM "
                "array; give a part such as --part=3/8"
            )
    place, rest = divmod(values["ID"] - values["MIN"], values["STEP"])
    if rest or not 0 <= place < values["COUNT"]:
        raise UserError(f"--part={ARRAY}: the array has gaps; number its jobs 1-N")
    return place + 1, values["COUNT"]


def write_slurm_script() -> bool:
    """Writes the script that ``--slurm`` asks for.

    Returns:
      Whether it was asked for.

    Raises:
      UserError: the file cannot be written.
    """
    from cberl_jax.runtime.files import write_text

    given = flags.FLAGS
    if given.slurm is None:
        return False
    write_text(pathlib.Path(given.slurm), format_slurm_script(sys.argv, given.jobs))
    print(f"script: {given.slurm}; look through it, then: sbatch {shlex.quote(given.slurm)}")
    return True


def format_slurm_script(arguments: list[str], jobs: int) -> str:
    """A script for ``sbatch`` that runs a command in parts.

    Args:
      arguments: the program and its flags; those of the script itself are left out.
      jobs: how many parts.
    """
    program, *given = arguments
    kept = []
    while given:
        flag = re.match(r"--?(slurm|jobs|part)(=|$)", given[0])
        if flag is None:
            kept.append(given[0])
        # The value of a flag without "=" follows it.
        given = given[2 if flag and not flag[2] else 1 :]
    name = os.path.basename(program).removesuffix(".py").replace(" ", "-")
    if program.endswith(".py"):
        program = f"{shlex.quote(sys.executable)} {shlex.quote(program)}"
    command = f"{program} {shlex.join(kept)}"
    return SCRIPT.format(name=name, jobs=jobs, command=command, part=ARRAY)
