r"""Compares two models on test, with intervals and p values.

Two finished runs, or a run and a file of predictions:

python experiments/compare.py runs/meld runs/meld_without_gan \
    --metrics=weighted_f1,macro_f1,"F1 fear","F1 disgust"
python experiments/compare.py runs/meld --predictions=mine.csv --output=comparison.tex

The file has the columns dialogue and utterance (the turn, from 0), and label or a column of
probabilities per class; a column seed tells several trainings apart. Or it is an .npz file with the
arrays dialogue, utterance, and probability or label.
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("compare", __doc__)
