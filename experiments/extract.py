r"""Makes features of raw conversations: text, sound and timing.

python experiments/extract.py --transcript=conv.csv --audio_dir=wavs --output=conv.npz
python experiments/extract.py --transcript=train_sent_emo.csv,dev_sent_emo.csv,test_sent_emo.csv \
    --finetune=runs/encoder --output=meld.npz
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.data.corpus import describe
from cberl_jax.features.extract import Sources, extract, parse_vectors
from cberl_jax.features.text import PACKAGED
from cberl_jax.features.tuning import Tuning

TRANSCRIPT = flags.DEFINE_multi_string(
    "transcript", None, "CSV files: our own layout, MELD's or EmoryNLP's.", required=True
)
OUTPUT = flags.DEFINE_string("output", None, "The .npz to write or replace.", required=True)
CLASSES = flags.DEFINE_list("classes", [], "Names of the emotions in their order.")
AUDIO = flags.DEFINE_multi_string(
    "audio_dir", [], "Folder with the utterances' sounds, or one for each transcript."
)
ENCODER = flags.DEFINE_string(
    "text_encoder", PACKAGED, "A sentence-transformers model, folder or name; empty for no text."
)
TIMING = flags.DEFINE_string(
    "timing", "timing", "Modality that timing features go under; empty for none."
)
VECTORS = flags.DEFINE_multi_string(
    "features", [], "modality=file.npz: vectors from elsewhere, such as visual=video.npz."
)
FINETUNE = flags.DEFINE_string(
    "finetune", "", "New folder for the text encoder, which is then tuned on the train split."
)
EPOCHS = flags.DEFINE_integer("finetune_epochs", 3, "Epochs, the best of them on dev kept.", 1)
RATE = flags.DEFINE_float("finetune_learning_rate", 2e-5, "Learning rate of AdamW.", 0.0)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the tuning.", 0)


def _paths(items: list[str]) -> list[str]:
    """Paths that are given by several flags, or by one and joined by commas."""
    return [path for item in items for path in item.split(",") if path]


def main() -> None:
    """Extracts, and says what the file holds."""
    sources = Sources(
        transcripts=_paths(TRANSCRIPT.value),
        classes=CLASSES.value,
        audio_folders=_paths(AUDIO.value),
        text_encoder=ENCODER.value,
        timing=TIMING.value,
        vectors=parse_vectors(VECTORS.value),
        tuned=FINETUNE.value,
        tuning=Tuning(EPOCHS.value, RATE.value, SEED.value),
    )
    print(describe(extract(sources, OUTPUT.value)))


if __name__ == "__main__":
    cli.run(main)
