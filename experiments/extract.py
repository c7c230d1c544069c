r"""Makes features of raw conversations: text, sound and timing.

python experiments/extract.py --transcript=conv.csv --audio_dir=wavs --output=conv.npz
python experiments/extract.py --transcript=train_sent_emo.csv,dev_sent_emo.csv,test_sent_emo.csv \
    --finetune=runs/encoder --output=meld.npz
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("extract", __doc__)
