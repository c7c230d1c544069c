r"""Trains CBERL and its variants with the same seeds and compares them on test.

python experiments/ablate.py --config=experiments/configs/meld.py --data=meld.npz \
    --workdir=runs/ablation --seeds=16 --preset=parts

``parts`` takes away a part or a modality at a time, ``remedies`` compares the GAN with every usual
remedy for imbalance, ``sizes`` trains on ever fewer dialogues. The same command started again does
what is missing.
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("ablate", __doc__)
