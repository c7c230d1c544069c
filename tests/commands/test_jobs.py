"""Parts of a study as flags, and the script for an array of SLURM jobs."""

import subprocess

import pytest

from cberl_jax.commands.jobs import format_slurm_script, parse_part
from cberl_jax.errors import UserError
from cberl_jax.studies.points import Part


@pytest.mark.parametrize(
    "text, part", [("3/8", Part(3, 8)), ("1/1", Part(1, 1)), ("8/8", Part(8, 8))]
)
def test_a_part_is_read(text, part):
    assert parse_part(text) == part


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "a/b", "3/8/2", "", "1/0", "-1/8"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UserError, match="has to be K/N, such as 3/8"):
        parse_part(text)


@pytest.mark.parametrize(
    "job, part",
    [
        ({"ID": "3", "MIN": "1", "COUNT": "8"}, Part(3, 8)),
        ({"ID": "0", "MIN": "0", "COUNT": "4", "STEP": "1"}, Part(1, 4)),
        ({"ID": "15", "MIN": "5", "COUNT": "3", "STEP": "5"}, Part(3, 3)),
    ],
)
def test_a_job_of_an_array_finds_its_part(monkeypatch, job, part):
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert parse_part("array") == part


@pytest.mark.parametrize(
    "job, said",
    [
        ({}, "SLURM_ARRAY_TASK_ID is not set, so this is no job of a SLURM array"),
        ({"ID": "", "MIN": "1", "COUNT": "2"}, "SLURM_ARRAY_TASK_ID is not set"),
        ({"ID": "9", "MIN": "1", "COUNT": "2"}, "the array has gaps"),
        ({"ID": "4", "MIN": "1", "STEP": "2", "COUNT": "2"}, "the array has gaps"),
    ],
)
def test_what_is_no_job_of_an_array_is_refused(monkeypatch, job, said):
    for name in ("ID", "MIN", "COUNT", "STEP"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(UserError, match=said):
        parse_part("array")


def test_the_script_holds_the_command_without_its_own_flags(tmp_path):
    arguments = ["cberl sweep", "--config=meld", "--slurm=a.sbatch", "--grid=loss.gamma=0,1"]
    arguments += ["--jobs", "4", "--workdir=my runs", "--part=1/2", "--seeds", "3"]
    script = format_slurm_script(arguments, 4)
    command = "cberl sweep --config=meld --grid=loss.gamma=0,1 '--workdir=my runs' --seeds 3"
    assert f"\nsrun {command} --part=array\n" in script
    assert "#SBATCH --array=1-4\n" in script and "#SBATCH --job-name=cberl-sweep\n" in script
    # A shell takes it as it stands.
    file = tmp_path / "a.sbatch"
    file.write_text(script)
    subprocess.run(["bash", "-n", str(file)], check=True)


@pytest.mark.parametrize("status, requeued", [(0, False), (2, False), (143, True)])
def test_a_job_whose_time_is_over_goes_into_the_queue_again(tmp_path, status, requeued):
    """The script runs with programs of these names that only write down what they are given."""
    for name, code in (("srun", status), ("scontrol", 0)):
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/calls\nexit {code}\n')
        program.chmod(0o755)
    file = tmp_path / "a.sbatch"
    file.write_text(format_slurm_script(["cberl ablate", "--config=meld"], 2))
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    job = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    ended = subprocess.run(["bash", str(file)], env=path | job, check=False)
    assert ended.returncode == status
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "srun cberl ablate --config=meld --part=array"
    assert calls[1:] == (["scontrol requeue 7_2"] if requeued else [])
