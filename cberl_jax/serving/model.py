"""A finished run as a model: conversations in, emotions out.

The compiled program takes a few packed rows of a few lengths only, so that conversations of similar
number and length share one: what is predicted next is not compiled again. Neither the other
conversations nor the padding change a prediction.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import Table, create_table, own_table
from cberl_jax.data.matching import left_out, match_model
from cberl_jax.data.packing import Rows, assign_rows, pack, turns_of
from cberl_jax.data.provenance import check_provenance
from cberl_jax.data.readers.jsonl import parse_turns
from cberl_jax.data.readers.load import load_conversations
from cberl_jax.data.readers.options import ReadingOptions
from cberl_jax.data.readers.transcripts import Transcript, Turn
from cberl_jax.data.text_layers import combine_text_layers
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError
from cberl_jax.features.remake import NO_FOLDERS, Folders, Remaker
from cberl_jax.models.cberl import describe_sight
from cberl_jax.runtime.files import expand
from cberl_jax.runtime.numerics import pinned
from cberl_jax.runtime.progress import print_now
from cberl_jax.runtime.summary import Summarised, Summary, list_names
from cberl_jax.runtime.workdir import ENCODERS
from cberl_jax.serving.folder import read_inference
from cberl_jax.serving.formats import check_format
from cberl_jax.serving.predictions import Predictions
from cberl_jax.serving.restore import Inference
from cberl_jax.serving.stream import Stream
from cberl_jax.training.epoch import predict
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.prepare import reading_options

ConversationSource = str | os.PathLike[str] | Corpus | Iterable[Any]
# A folder, or one for each table.
FolderSource = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None

SHORTEST_ROW = 16
# Cells (rows times their length) of one call, unless one row is longer than that.
MOST_CELLS = 2048


def round_up(count: int, unit: int) -> int:
    """The smallest of unit, 2 unit, 4 unit, ... that holds ``count``."""
    while unit < count:
        unit *= 2
    return unit


class Reading(NamedTuple):
    """How conversations are read for a model.

    Attributes:
      classes: names of the model's classes.
      widths: modality or view -> feature width that it was trained with.
      text_layers: how several text layers of a file become one.
      options: what a file does not say of itself, as of the one that was trained on.
      is_ignored: whether a file may hold a modality or view though the members were trained
        without it.
      remaker: makes the features of raw conversations.
      provenance: modality -> how the features were made that the members learned from.
    """

    classes: tuple[str, ...]
    widths: Mapping[str, int]
    text_layers: str
    options: ReadingOptions
    is_ignored: Callable[[str], bool]
    remaker: Remaker
    provenance: Mapping[str, Mapping[str, Any]] = {}

    def read(
        self,
        conversations: ConversationSource,
        folders: Folders = NO_FOLDERS,
        say: Callable[[str], None] | None = None,
    ) -> Corpus:
        """The conversations in the model's terms; ``folders`` and ``say`` are for raw ones."""
        found = self._find(conversations)
        if isinstance(found, Transcript):
            found = self.remaker.remake(found, folders, say)
        elif any(folders):
            raise found.error(
                "holds features, so that audio_dir and video_dir would change nothing; they are "
                "for raw conversations"
            )
        check_provenance(found, self.provenance)
        return self._match(found)

    def start_live(self) -> Callable[[Any, int], Corpus]:
        """What reads the turns of one conversation, each after its number from 0.

        It makes a corpus of one utterance. A turn without features is read in those before it.
        """
        turns: list[Turn] = []

        def read_turn(turn: Any, number: int) -> Corpus:
            written = parse_turns([[turn]], f"turn {number} of the stream")
            (own,) = written.transcript().turns
            is_raw = written.is_raw
            corpus = self.remaker.remake_last([*turns, own]) if is_raw else written.corpus()
            corpus = self._match(corpus)
            turns.append(own)
            return corpus

        return read_turn

    def _find(self, conversations: ConversationSource) -> Corpus | Transcript:
        if isinstance(conversations, str | os.PathLike):
            return load_conversations(conversations, self.text_layers, self.options)
        if isinstance(conversations, Corpus):
            return validate(conversations, to_predict=True)
        written = parse_turns(conversations)
        return written.transcript() if written.is_raw else written.corpus()

    def _match(self, corpus: Corpus) -> Corpus:
        # JSON lines and turns may hold text layers, as other files do.
        corpus = combine_text_layers(corpus, self.text_layers)
        return match_model(corpus, self.classes, self.widths, self.is_ignored)


class Model(Summarised):
    """The sound members of a finished run, their parameters on the devices.

    Attributes:
      classes: names of the C emotions, in the order of the probabilities.
      widths: modality or view -> feature width, of those that the members were trained with.
      seeds: of the S members that predict.
      diverged: seeds of the members that do not, since their training diverged.
      network: the joint model.
      variables: its members', leaves [S, ...], on the host.
      standardiser: the train statistics.
    """

    @pinned()
    def __init__(self, found: Inference, reading: Reading):
        """Deals members out to the devices; ``load`` makes a model of a run's folder.

        Args:
          found: what of a run predicts.
          reading: how conversations are read for it.
        """
        self.fold = found.fold
        self.classes, self.widths = reading.classes, reading.widths
        self.seeds, self.diverged = found.seeds.tolist(), found.diverged.tolist()
        self.network, self.variables = found.program.model, found.variables
        self.standardiser = found.standardiser
        self._reading = reading
        # A power of two: every number of rows below is one too, and splits over the devices.
        self._program = dataclasses.replace(found.program, rows=MOST_CELLS // SHORTEST_ROW)
        self._fleet = Fleet(self._program, len(self.seeds))
        self._spread = self._fleet.shard(self.variables)
        number = np.zeros(len(self.seeds), np.int32) if self.fold is None else self.fold
        self._number = self._fleet.shard(number)

    def _summarise(self) -> Summary:
        sight = describe_sight(self.network.settings)
        found = {
            "members": f"{len(self.seeds)} ({self._list_members()})",
            "classes": f"{len(self.classes)} ({list_names(self.classes)})",
            "features": list_names([f"{name} ({width})" for name, width in self.widths.items()]),
            "sees of an utterance": f"the {sight}" if sight else "itself alone",
        }
        if self.diverged:
            found["diverged and left out"] = f"seeds {list_names(self.diverged)}"
        lines = ["CBERL model", *(f"{name}: {text}" for name, text in found.items())]
        return Summary(lines, ("", ""), list(found.items()))

    def _list_members(self) -> str:
        listed = f"seeds {list_names(list(dict.fromkeys(self.seeds)))}"
        return listed if self.fold is None else f"{listed}, a model per fold"

    def predict(
        self,
        conversations: ConversationSource,
        *,
        audio_dir: FolderSource = None,
        video_dir: FolderSource = None,
    ) -> list[np.ndarray]:
        """The most probable emotion of every turn.

        Args:
          conversations: a path (canonical ``.npz``, pickle of the field, JSON lines or
            ``simulated:<size>``), a Corpus, or a list of conversations: each a list of turns, or a
            dictionary of ``dialogue`` and ``turns``, as in ``data/readers/jsonl.py``. A modality
            may be missing anywhere. Or raw conversations: a table (``.csv``, as ``cberl extract``
            reads it) or turns of which none has features, which are then made as the run's were.
          audio_dir: folder with the sounds of raw conversations, or one for each table.
          video_dir: folder with their clips, likewise.

        Returns:
          Per conversation [T] str.

        Raises:
          UserError: what is wrong with the conversations, and where.
        """
        found = self.predictions(conversations, audio_dir=audio_dir, video_dir=video_dir)
        return found.by_conversation(np.asarray(self.classes)[found.label])

    def predict_proba(
        self,
        conversations: ConversationSource,
        *,
        audio_dir: FolderSource = None,
        video_dir: FolderSource = None,
    ) -> list[np.ndarray]:
        """The probability of every emotion, averaged over the members.

        Args:
          conversations: as of ``predict``.
          audio_dir: as of ``predict``.
          video_dir: as of ``predict``.

        Returns:
          Per conversation [T, C], classes in the order of ``classes``.

        Raises:
          UserError: as of ``predict``.
        """
        found = self.predictions(conversations, audio_dir=audio_dir, video_dir=video_dir)
        return found.by_conversation(found.probability)

    @pinned()
    def predictions(
        self,
        conversations: ConversationSource,
        *,
        audio_dir: FolderSource = None,
        video_dir: FolderSource = None,
        say: Callable[[str], None] | None = None,
    ) -> Predictions:
        """All that the members say, to be read, written or drawn.

        Args:
          conversations: as of ``predict``.
          audio_dir: as of ``predict``.
          video_dir: as of ``predict``.
          say: is told how far the features of raw conversations are, and which files are missing;
            by default the latter are remarks of the corpus.

        Returns:
          The Predictions.

        Raises:
          UserError: as of ``predict``.
        """
        folders = Folders(_list_folders(audio_dir), _list_folders(video_dir))
        corpus = self._reading.read(conversations, folders, say)
        return Predictions(corpus, self._apply(corpus), self.diverged)

    @pinned()
    def stream(self) -> Stream:
        """Starts a conversation that arrives a turn at a time.

        Returns:
          A Stream, whose ``push`` takes a turn and gives its emotion at once.

        Raises:
          UserError: the run's model sees future turns.
        """
        self.check_without_folds("follow a conversation live")
        if not self.network.settings.causal:
            raise UserError(
                "this model sees future turns, so it cannot follow a conversation live; train one "
                "with --causal"
            )
        return Stream(
            self.network,
            jax.device_put(self.variables, jax.local_devices()[0]),
            self.standardiser,
            self.classes,
            self._reading.start_live(),
        )

    def check_without_folds(self, what: str) -> None:
        """Refuses a model of folds where one set of train statistics is needed.

        Args:
          what: cannot be done.

        Raises:
          UserError: the members were trained for folds.
        """
        if self.fold is not None:
            raise UserError(
                f"a run of folds cannot {what}: its models differ in how features are "
                "standardised; train one without folds for that"
            )

    def _apply(self, corpus: Corpus) -> np.ndarray:
        """[S, N, C] probabilities."""
        folds = 0 if self.fold is None else len(jax.tree.leaves(self.standardiser)[0])
        table = create_table(corpus, self.standardiser, folds)
        shape = (len(self.seeds), len(corpus.label), len(self.classes))
        probability = np.zeros(shape, np.float32)
        for rows in self._batches(corpus):
            used = rows.segment > 0
            utterances = rows.index[used]
            here, own = own_table(table, rows)
            shared = self._fleet.replicate((here, own))
            packed = self._compiled(rows.index.shape, shared)(self._spread, shared, self._number)
            probability[:, utterances] = self._fleet.gather(packed, len(self.seeds))[:, used]
        return probability

    def _batches(self, corpus: Corpus) -> Iterator[Rows]:
        """The conversations packed into rows, as many rows at a time as a call takes."""
        turns = turns_of(corpus, np.arange(len(corpus.length)))
        length = round_up(int(corpus.length.max()), SHORTEST_ROW)
        needed = len(assign_rows(turns.length, length))
        most = round_up(MOST_CELLS // length, self._fleet.split)
        count = min(round_up(needed, self._fleet.split), most)
        packed = pack(turns, length, count)
        for start in range(0, len(packed.index), count):
            yield Rows(*(field[start : start + count] for field in packed))

    def _compiled(self, shape: tuple[int, int], shared: Any) -> Callable[..., Any]:
        """The compiled program for rows [R, L] and their own utterances."""
        program = dataclasses.replace(self._program, rows=shape[0])
        parts, folded = self._fleet.parts, self.fold is not None

        def of_member(variables: Any, shared: tuple[Table, Rows], fold: Any) -> jax.Array:
            table, rows = shared
            table = table._replace(fold=fold) if folded else table
            return predict(program, variables, table, rows, parts)

        name = f"predict {shape}"
        arguments = (self._spread, shared, self._number)
        return self._fleet.compile(name, of_member, arguments, keep=True)


def _list_folders(source: FolderSource) -> list[str]:
    named = [source] if isinstance(source, str | os.PathLike) else source or []
    return [expand(folder, "the folder of sounds or clips") for folder in named]


def load(workdir: str | os.PathLike[str], encoders: Sequence[str | os.PathLike[str]] = ()) -> Model:
    """Makes a model of a finished run; the corpus that it was trained on is not needed.

    Args:
      workdir: the run's folder, or one that ``export`` wrote.
      encoders: folders of the encoders that features of raw conversations are made by, where the
        run's folder does not hold them; they are known by their weights.

    Returns:
      The model, of the members that did not diverge.

    Raises:
      UserError: there is no finished run, it is of another version or damaged, all members
        diverged, or an encoder is none of the run's.
    """
    found = read_inference(workdir)
    config = found.config
    reading = Reading(
        classes=found.classes,
        widths=found.standardiser.widths,
        text_layers=config.data.text_layers,
        options=reading_options(config),
        is_ignored=left_out(config.data.modalities, config.data.views),
        remaker=Remaker(
            found.features,
            list(found.standardiser.widths),
            pathlib.Path(expand(workdir)) / ENCODERS,
            [expand(folder, "the encoder") for folder in encoders],
        ),
        provenance=found.features,
    )
    return Model(found, reading)


def predict_file(
    workdir: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    traces: str | os.PathLike[str] | None = None,
    encoders: Sequence[str | os.PathLike[str]] = (),
    audio_dir: FolderSource = None,
    video_dir: FolderSource = None,
) -> Predictions:
    """Predicts the conversations of a file.

    Args:
      workdir: folder of a finished run.
      source: as of ``Model.predict``.
      output: the file to write or replace, as of ``Predictions.write``.
      traces: folder for a picture of each conversation, made if it is not there.
      encoders: as of ``load``.
      audio_dir: as of ``Model.predict``.
      video_dir: as of ``Model.predict``.

    Returns:
      The predictions.

    Raises:
      UserError: the run, the conversations or the places to write to are at fault. Nothing is
        written then.
    """
    _check_output(pathlib.Path(expand(output)), pathlib.Path(expand(source)))
    if traces is not None:
        _check_folder(pathlib.Path(expand(traces)))
    predictions = load(workdir, encoders).predictions(
        source, audio_dir=audio_dir, video_dir=video_dir, say=print_now
    )
    predictions.write(output)
    if traces is not None:
        predictions.draw(traces)
    return predictions


def _check_output(output: pathlib.Path, source: pathlib.Path) -> None:
    if output.is_dir():
        raise UserError(f"{output}: is a folder; the output has to be a file")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}")
    check_format(output)
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output}: is the input, which the output would replace")


def _check_folder(folder: pathlib.Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; the pictures need a folder")
    if not folder.parent.is_dir():
        raise UserError(f"{folder}: there is no folder {folder.parent}")
