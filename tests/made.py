"""How a result was made, for reports that are made by hand."""

MADE = {
    "command": "train.py --workdir='runs/a b' --seeds=4",
    "date": "2024-05-06 07:08 UTC",
    "device": "4 x cpu",
    "versions": {"python": "3.11.2", "cberl-jax": "0.0.7"},
    "corpus": "my|corpus.npz",
    "fingerprint": "f" * 64,
    "settings": {"loss.gamma": {"value": 3.0, "default": 2.0}},
}
