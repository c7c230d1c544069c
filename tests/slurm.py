"""A real SLURM on this machine alone, for tests: one controller and one node, in one folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import time

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Why there can be no SLURM here; None where there can."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "starting SLURM's daemons needs root"


@contextlib.contextmanager
def started(folder):
    """Starts SLURM within the block; yields the variables that its commands need."""
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host, cores = socket.gethostname().split(".")[0], os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 8 // 10 // 2**20
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, cores=cores, memory=memory))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    own = {"SLURM_CONF": str(config)}
    names = ("key-file=munge.key", "socket=munge.socket", "pid-file=munged.pid")
    names += ("log-file=munged.log", "seed-file=munged.seed")
    files = [f"--{flag}={folder}/{file}" for flag, file in (name.split("=") for name in names)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        for command in (["munged", "--force", *files], ["slurmctld"], ["slurmd"]):
            subprocess.run(command, env=os.environ | own, check=True, timeout=60, **quiet)
        _wait_for_node(os.environ | own, folder)
        yield own
    finally:
        for name in ("slurmd", "slurmctld", "munged"):
            pid = folder / f"{name}.pid"
            if pid.exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid.read_text()), 15)


def _wait_for_node(environment, folder):
    command = ["sinfo", "-h", "-o", "%T"]
    for _ in range(60):
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if told.stdout.strip() in ("idle", "mixed", "allocated"):
            return
        time.sleep(1)
    logs = [(folder / f"{name}.log").read_text()[-2000:] for name in ("slurmctld", "slurmd")]
    raise RuntimeError("SLURM's node does not come up:\n" + "\n".join(logs))
