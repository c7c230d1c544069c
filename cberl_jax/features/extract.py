"""From transcripts and sounds to a corpus: every modality that can be had, in one file."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.config.views import FEATURE_NAME, find_unclear, is_view
from cberl_jax.data.corpus import SPLITS, Corpus
from cberl_jax.data.holdout import hold_out_dev
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.readers.transcripts import Transcript, read_transcripts
from cberl_jax.data.readers.vectors import read_vectors
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError
from cberl_jax.features.check import Fault, check_clips, check_transcript
from cberl_jax.features.context import Context
from cberl_jax.features.encode import TextSource, encode_text, is_tuned
from cberl_jax.features.provenance import describe_extractor, describe_vectors
from cberl_jax.features.sound_and_sight import (
    MediaSources,
    check_folders,
    check_media,
    describe_media,
    forget_rows,
    media_rows,
)
from cberl_jax.features.text import PACKAGED
from cberl_jax.features.timing import timing_features
from cberl_jax.features.tuning import Tuning


class Sources(NamedTuple):
    """Where the features come from.

    Attributes:
      transcripts: CSV files, see ``data/transcripts.py``.
      classes: names of the emotions in their order; empty for those of the files.
      media: sound and sight.
      text_encoder: a folder or name, see ``load_encoder``; empty for no text. Or several, each
        under the name of its features: ``{"text.minilm": ..., "text.mpnet": ...}``.
      timing: name of the modality that timing goes under; empty for none.
      vectors: modality -> ``.npz`` with vectors from elsewhere, see ``data/vectors.py``.
      tuned: folder to leave the tuned encoder in; empty to leave the encoder as it is.
      tuning: how it is tuned.
      tuned_seeds: how many times it is tuned, with seeds from ``tuning.seed`` on. Of several each
        leaves its encoder in ``tuned/s<seed>``, and a view of its own: ``text.s<seed>``, or
        ``text.<name>_s<seed>`` where the encoder has a name.
      dev_share: share of the train dialogues to hold out as dev where no table is dev.
      context: what the text encoder reads with an utterance, see ``TextSource``.
      causal: whether no feature may come from a later turn.
    """

    transcripts: Sequence[str | os.PathLike]
    classes: Sequence[str] = ()
    media: MediaSources = MediaSources()
    text_encoder: str | Mapping[str, str] = PACKAGED
    timing: str = "timing"
    vectors: Mapping[str, str] = {}
    tuned: str = ""
    tuning: Tuning = Tuning()
    tuned_seeds: int = 1
    dev_share: float = 0.0
    context: Context | None = None
    causal: bool = False

    @property
    def encoders(self) -> dict[str, str]:
        """Name of features -> encoder."""
        if isinstance(self.text_encoder, str):
            return {"text": self.text_encoder} if self.text_encoder else {}
        return dict(self.text_encoder)

    @property
    def texts(self) -> dict[str, TextSource]:
        """Name of features -> how they are made."""
        how = (self.context, self.tuned, self.tuning, self.causal)
        texts = {name: TextSource(encoder, *how) for name, encoder in self.encoders.items()}
        if self.tuned_seeds == 1:
            return texts
        first = self.tuning.seed
        return {
            f"{name}{'_' if is_view(name) else '.'}s{seed}": source._replace(
                tuned=f"{self.tuned}/s{seed}", tuning=self.tuning._replace(seed=seed)
            )
            for name, source in texts.items()
            for seed in range(first, first + self.tuned_seeds)
        }


def parse_encoders(items: Sequence[str], modality: str = "text") -> dict[str, str]:
    """Encoders of a modality by the names of their features.

    Args:
      items: encoders, each by itself or as ``name=encoder``. A single one without a name makes
        the modality itself; of several, one without is named by the last part of its own name.
      modality: the modality.

    Raises:
      UserError: two have one name.
    """
    items = [item for item in items if item]
    named = [re.fullmatch(r"([\w-]{1,64})=(.+)", item) for item in items]
    if len(items) < 2 and not any(named):
        return {modality: items[0]} if items else {}
    encoders: dict[str, str] = {}
    for item, match in zip(items, named):
        last = re.split(r"[/\\]", item.rstrip("/\\"))[-1]
        name = match[1] if match else re.sub(r"[^\w-]+", "-", last).strip("-")[:64]
        if not name or f"{modality}.{name}" in encoders:
            flag = f"--{modality}_encoder"
            raise UserError(
                f"{flag}={item}: {name or 'this'} cannot name a second view of {modality}; give it "
                f"a name: {flag}=NAME=ENCODER."
            )
        encoders[f"{modality}.{name}"] = match[2] if match else item
    return encoders


def parse_vectors(items: Sequence[str]) -> dict[str, str]:
    """Modality or view -> path, from ``modality=path`` items.

    Raises:
      UserError: an item is not of that form, or a name is there twice.
    """
    vectors: dict[str, str] = {}
    for item in items:
        modality, _, path = item.partition("=")
        if not FEATURE_NAME.fullmatch(modality) or not path:
            raise UserError(
                f"--features={item}: has to be modality=file.npz or modality.view=file.npz."
            )
        if modality in vectors:
            raise UserError(f"--features={item}: {modality} is named twice.")
        vectors[modality] = path
    return vectors


def extract(
    sources: Sources, output: str | os.PathLike, say: Callable[[str], None] = print
) -> Corpus:
    """Writes the features of all utterances as a canonical file.

    Args:
      sources: what to read.
      output: the ``.npz`` to write, replaced in one step if it is there.
      say: is told what a person should know: progress, and what was absent.

    Returns:
      The corpus. It can be trained on if there are labels in train and all three splits; else it
      is for prediction alone.

    Raises:
      UserError: if something cannot be read, is not sound or cannot be written.
    """
    _check_targets(sources, output)
    transcript = _with_dev(read_transcripts(sources.transcripts, sources.classes), sources)
    if sources.tuned_seeds > 1:
        # Of seeds that an earlier call has tuned, before the next one is.
        for source in sources.texts.values():
            is_tuned(transcript, source)
    # The cheap readers first: what is wrong shows before the encoder has worked for an hour.
    rows = {name: read_vectors(path, transcript) for name, path in sources.vectors.items()}
    made = {name: describe_vectors(path, transcript) for name, path in sources.vectors.items()}
    if sources.timing:
        rows = {sources.timing: timing_features(transcript, sources.causal)} | rows
        made[sources.timing] = describe_extractor("timing", transcript, causal=sources.causal)
    rows = media_rows(transcript, sources.media, output, say) | rows
    made |= describe_media(transcript, sources.media)
    texts = {}
    for name, own in sources.texts.items():
        if sources.tuned_seeds > 1:
            say(f"{name}: the text encoder of seed {own.tuning.seed}")
        texts[name] = encode_text(transcript, own, say)
    rows = {name: text.rows for name, text in texts.items()} | rows
    made |= {name: text.record for name, text in texts.items()}
    corpus = make_corpus(transcript, rows, made, not _is_trainable(transcript))
    if not _is_trainable(transcript):
        say(_why_not_trainable(transcript))
    write_npz(corpus, output)
    forget_rows(output)
    return corpus


def check(sources: Sources, say: Callable[[str], None] = print) -> list[Fault]:
    """Looks at what features would be made of, and makes none.

    Args:
      sources: what to read.
      say: is told what takes time.

    Returns:
      What is wrong with it, and what ``extract`` does about that.

    Raises:
      UserError: a table or a folder cannot be read at all.
    """
    check_media(sources.media)
    transcript = read_transcripts(sources.transcripts, sources.classes)
    found = check_transcript(transcript)
    for folders, flag in (
        (sources.media.audio_folders, "--audio_dir"),
        (sources.media.video_folders, "--video_dir"),
    ):
        if folders:
            found += check_clips(transcript, folders, flag, say)
    return found


def _check_targets(sources: Sources, output: str | os.PathLike) -> None:
    folder = Path(output).absolute().parent
    if not folder.is_dir():
        raise UserError(f"{output}: the folder {folder} does not exist.")
    if sources.tuned_seeds < 1 or (sources.tuned_seeds > 1 and not sources.tuned):
        raise UserError(
            f"--finetune_seeds={sources.tuned_seeds}: has to be at least 1, and 1 where no "
            "--finetune is given."
        )
    if sources.tuned:
        if len(sources.encoders) != 1:
            raise UserError(
                "--finetune needs a --text_encoder, and one only: tune one after the other, then "
                "name both folders by --text_encoder."
            )
        if sources.tuned_seeds > 1:
            _check_seeds(Path(sources.tuned))
        elif os.path.lexists(sources.tuned):
            raise UserError(f"{sources.tuned}: is there already; name a new folder to --finetune.")
    check_media(sources.media)
    check_folders(sources.media)
    names = [*sources.vectors, *sources.texts, *sources.media.names]
    names += [sources.timing] if sources.timing else []
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(
            f"the modality {repeated[0]!r} would come from two sources; --text_encoder=, "
            "--timing= or another name in --features takes one away."
        )
    long = next((name for name in sources.texts if not FEATURE_NAME.fullmatch(name)), None)
    if long:
        raise UserError(
            f"{long}: is too long a name for features; give the encoder a shorter one: "
            "--text_encoder=NAME=ENCODER."
        )
    unclear = find_unclear(names)
    if unclear:
        raise UserError(
            f"{unclear[0]} and {unclear[1]} cannot be in one file: two views of {unclear[0]} need "
            f"two names (--text_encoder=NAME=ENCODER, --features={unclear[0]}.NAME=FILE)."
        )


def _check_seeds(folder: Path) -> None:
    """Refuses a folder for the encoders of several seeds that holds anything else."""
    others = folder.iterdir() if folder.is_dir() else [folder] if os.path.lexists(folder) else []
    for path in others:
        # Drafts of a call that was killed begin with a dot.
        if not re.fullmatch(r"s\d+(\.tuning)?|\..*", path.name):
            raise UserError(f"{path}: is there already; name a new folder to --finetune.")


def make_corpus(
    transcript: Transcript,
    rows: Mapping[str, np.ndarray],
    made: Mapping[str, Any],
    to_predict: bool,
) -> Corpus:
    """A corpus of features that were made.

    Args:
      transcript: N utterances.
      rows: name of features -> [N, d]; a row of nan is an utterance without them.
      made: name -> how they were made.
      to_predict: whether it is for prediction alone.

    Returns:
      The corpus, validated.
    """
    corpus = Corpus(
        classes=transcript.classes,
        dialogue=transcript.dialogue,
        split=transcript.split,
        length=transcript.length,
        speaker=np.array([turn.speaker for turn in transcript.turns]),
        label=transcript.label,
        features=dict(rows),
        present={name: ~np.isnan(array).all(axis=1) for name, array in rows.items()},
        utterance=np.array([turn.text for turn in transcript.turns]),
        source=transcript.source,
        provenance={name: made[name] for name in rows},
    )
    return validate(corpus, to_predict=to_predict)


def _with_dev(transcript: Transcript, sources: Sources) -> Transcript:
    """The transcript with dialogues of train in dev, where that is asked for and there is none."""
    train = transcript.split == "train"
    share = sources.dev_share
    if not share or not transcript.has_splits or "dev" in transcript.split or not train.any():
        return transcript
    label, length = transcript.label[transcript.in_split("train")], transcript.length[train]
    dev = hold_out_dev(label, length, share)
    if not dev.any():
        raise UserError(
            f"{transcript.source}: train has too few dialogues to hold some out for dev."
        )
    split = transcript.split.astype("U5")
    split[np.flatnonzero(train)[dev]] = "dev"
    return transcript._replace(split=split)


def _why_not_trainable(transcript: Transcript) -> str:
    said = "labels in train, dev and test are not all there: the file is for predict.py alone"
    if transcript.has_splits and "train" in transcript.split and "dev" not in transcript.split:
        said += " (--dev_share=0.1 makes a dev split out of a tenth of train)"
    return said


def _is_trainable(transcript: Transcript) -> bool:
    labelled = [np.any(transcript.label[transcript.in_split(s)] >= 0) for s in SPLITS]
    return transcript.has_splits and all(labelled)
