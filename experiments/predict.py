r"""Predicts the emotions of conversations with a finished run.

python experiments/predict.py --workdir=runs/meld --input=conversations.jsonl \
    --output=emotions.jsonl --traces=runs/traces
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("predict", __doc__)
