r"""Says whether the generated utterances of a finished run are any good.

python experiments/gan_report.py --workdir=runs/meld --data=meld.npz
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("gan-report", __doc__)
