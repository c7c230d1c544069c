"""An utterance in its conversation, as the tokens that a text encoder reads.

The input is ``speaker: turn`` texts in their order, the utterance among them, with the tokenizer's
separator between two turns. What stands for the utterance is the mean over the tokens of its own
words: the turns around it act through attention alone (as in EmoBERTa, Kim and Vossen 2021, which
takes the first token instead).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.features.optional import load_library

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# Of one batch without gradients: 32 utterances of 64 tokens.
BATCH_TOKENS = 2048


class Context(NamedTuple):
    """What of a conversation is read with an utterance.

    Attributes:
      past: how many turns before it.
      future: how many turns after it.
      tokens: of the whole input. The utterance comes first, then the nearest turns.
      speaker_names: whether each turn begins with the name of its speaker.
    """

    past: int = 0
    future: int = 0
    tokens: int = 64
    speaker_names: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether the utterance is read by itself, without a name."""
        return not (self.past or self.future or self.speaker_names)

    def describe(self) -> str:
        """The flags that ask for it."""
        if self.is_alone:
            return "--context_past=0"
        names = "speaker_names" if self.speaker_names else "nospeaker_names"
        return (
            f"--context_past={self.past} --context_future={self.future} "
            f"--context_tokens={self.tokens} --{names}"
        )


ALONE = Context()


def read_context(held: Any) -> Context:
    """A context of JSON: what ``Context._asdict`` gave.

    Raises:
      ValueError: it is none.
    """
    try:
        context = Context(**held)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if [type(value) for value in context] != [type(value) for value in ALONE]:
        raise ValueError("its values are of no use")
    return context


def create_context(
    past: int | None = None,
    future: int | None = None,
    tokens: int | None = None,
    speaker_names: bool | None = None,
) -> Context | None:
    """The context that some flags ask for, None where none of them is given.

    Args:
      past: as of ``Context``, and so are the next two.
      future: see there.
      tokens: see there.
      speaker_names: see there; by default with a context and without one not.
    """
    if past is future is tokens is speaker_names is None:
        return None
    past, future = past or 0, future or 0
    names = bool(past or future) if speaker_names is None else speaker_names
    if not (past or future or names) and tokens is not None:
        raise UserError("--context_tokens needs --context_past or --context_future.")
    return Context(past, future, tokens or Context().tokens, names)


class Inputs(NamedTuple):
    """What an encoder reads of n utterances.

    Attributes:
      ids: per utterance its token ids, special ones among them.
      own: [n, 2] int, where the utterance's own words begin and end; None where the encoder pools
        all of them in its own way.
      rows: [n] int, which utterances of the transcript they are: those with a text.
    """

    ids: list[np.ndarray]
    own: np.ndarray | None
    rows: np.ndarray

    @property
    def length(self) -> np.ndarray:
        """[n] int, tokens per utterance."""
        return np.array([len(ids) for ids in self.ids], int)

    def only(self, which: np.ndarray) -> "Inputs":
        """The inputs of some utterances, [n] bool."""
        ids = [own for own, there in zip(self.ids, which) if there]
        return Inputs(ids, None if self.own is None else self.own[which], self.rows[which])


def make_inputs(
    encoder: "SentenceTransformer", transcript: Transcript, context: Context = ALONE
) -> Inputs:
    """The tokens of every utterance that has a text.

    Args:
      encoder: as of ``load_encoder``.
      transcript: the conversations. A turn without a text is passed over in the context of others.
      context: what is read with an utterance.

    Raises:
      UserError: the encoder does not read so many tokens, or has no tokens.
    """
    rows = np.array([n for n, turn in enumerate(transcript.turns) if turn.text], np.int64)
    if context.is_alone:
        texts = [transcript.turns[row].text for row in rows]
        return Inputs(_plain_ids(encoder, texts), None, rows)
    _check_fit(encoder, context)
    frame, turns = _Frame.of(encoder.tokenizer), _tokenise(encoder.tokenizer, transcript, context)
    first = np.repeat(transcript.start, transcript.length)
    last = first + np.repeat(transcript.length, transcript.length)
    made = [
        _assemble(row, _neighbours(row, first[row], last[row], context), turns, frame, context)
        for row in rows
    ]
    return Inputs([ids for ids, _ in made], np.array([own for _, own in made]), rows)


def embed(encoder: "SentenceTransformer", inputs: Inputs, which: Sequence[int]) -> "torch.Tensor":
    """Embeds a batch, with gradients where torch keeps them.

    Args:
      encoder: as of ``load_encoder``.
      inputs: its tokens.
      which: b indices into them.

    Returns:
      [b, d] float, on the encoder's device.
    """
    torch = load_library("torch")
    length = max(len(inputs.ids[n]) for n in which)
    ids = np.full((len(which), length), encoder.tokenizer.pad_token_id or 0, np.int64)
    mask = np.zeros_like(ids)
    for place, n in enumerate(which):
        ids[place, : len(inputs.ids[n])] = inputs.ids[n]
        mask[place, : len(inputs.ids[n])] = 1
    tokens = {"input_ids": ids, "attention_mask": mask}
    features = {k: torch.from_numpy(array).to(encoder.device) for k, array in tokens.items()}
    if inputs.own is None:
        return encoder(features)["sentence_embedding"]
    transformer, _, *others = encoder
    start, stop = inputs.own[np.asarray(which)].T[..., None]
    place = np.arange(length)
    own = torch.from_numpy((place >= start) & (place < stop)).to(encoder.device)
    embedded = transformer(features)["token_embeddings"]
    features["sentence_embedding"] = (embedded * own[..., None]).sum(1) / own.sum(1, keepdim=True)
    for module in others:
        features = module(features)
    return features["sentence_embedding"]


def embed_all(encoder: "SentenceTransformer", inputs: Inputs, count: int) -> np.ndarray:
    """The features of a transcript.

    Args:
      encoder: as of ``load_encoder``.
      inputs: its tokens.
      count: N, utterances of the transcript.

    Returns:
      [N, d] float32; a row is nan where there is no text.
    """
    torch = load_library("torch")
    encoder.eval()
    rows = np.full((count, encoder.get_embedding_dimension()), np.nan, np.float32)
    with torch.inference_mode():
        for which in by_length(inputs.length, np.argsort(-inputs.length, kind="stable")):
            rows[inputs.rows[which]] = embed(encoder, inputs, which).float().cpu().numpy()
    return rows


def by_length(length: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of at most ``BATCH_TOKENS`` tokens, padding among them, by falling length.

    Args:
      length: [n] int, tokens of each input.
      order: [m] int, which inputs, the longest first.
    """
    while len(order):
        count = max(1, BATCH_TOKENS // int(length[order[0]]))
        yield order[:count]
        order = order[count:]


class _Frame(NamedTuple):
    """A tokenizer's special tokens: before and after all, and between two turns."""

    prefix: list[int]
    suffix: list[int]
    between: list[int]
    unknown: int

    @classmethod
    def of(cls, tokenizer) -> "_Frame":
        whole, bare = (tokenizer("a", add_special_tokens=s)["input_ids"] for s in (True, False))
        size = len(bare)
        at = next(n for n in range(len(whole)) if whole[n : n + size] == bare)
        between = tokenizer("\n", add_special_tokens=False)["input_ids"]
        if tokenizer.sep_token_id is not None:
            between = [tokenizer.sep_token_id]
        known = (tokenizer.unk_token_id, tokenizer.eos_token_id, 0)
        unknown = next(number for number in known if number is not None)
        return cls(whole[:at], whole[at + size :], between, unknown)


def _check_fit(encoder: "SentenceTransformer", context: Context) -> None:
    """Refuses encoders that do not read tokens, or not so many."""
    kinds = [type(module).__name__ for module in encoder]
    if kinds[:2] != ["Transformer", "Pooling"] or not callable(encoder.tokenizer):
        raise UserError(
            f"the text encoder is made of {', '.join(kinds)}; reading in context needs a "
            "Transformer with a Pooling behind it: take the flags of the context away."
        )
    most = encoder.max_seq_length
    if most and context.tokens > most:
        raise UserError(
            f"--context_tokens={context.tokens}: the text encoder reads at most {most} tokens."
        )


def _plain_ids(encoder: "SentenceTransformer", texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids as the encoder's own preprocessing makes them."""
    made: list[np.ndarray] = []
    for start in range(0, len(texts), 1024):
        tokens = encoder.preprocess(list(texts[start : start + 1024]))
        ids, mask = tokens["input_ids"].numpy(), tokens["attention_mask"].numpy() > 0
        made += [row[there] for row, there in zip(ids, mask)]
    return made


def _tokenise(
    tokenizer, transcript: Transcript, context: Context
) -> list[tuple[list[int], list[int]]]:
    """The tokens of every turn's name, which may be none, and words; both empty without a text."""

    def ids_of(texts: list[str]) -> dict[str, list[int]]:
        distinct = list(dict.fromkeys(texts))
        made = tokenizer(distinct, add_special_tokens=False, verbose=False)["input_ids"]
        return dict(zip(distinct, made))

    # The blank is a part of the first word for tokenizers that know where words begin.
    blank = " " if context.speaker_names else ""
    words = ids_of([blank + turn.text for turn in transcript.turns])
    names = ids_of([f"{turn.speaker}:" for turn in transcript.turns])
    return [
        (names[f"{turn.speaker}:"] if blank and turn.text else [], words[blank + turn.text])
        if turn.text
        else ([], [])
        for turn in transcript.turns
    ]


def _neighbours(row: int, first: int, last: int, context: Context) -> Iterator[int]:
    """The turns around a row of the dialogue [first, last), from the nearest outward."""
    for distance in range(1, max(context.past, context.future) + 1):
        if distance <= context.past and row - distance >= first:
            yield row - distance
        if distance <= context.future and row + distance < last:
            yield row + distance


def _assemble(
    row: int,
    neighbours: Iterator[int],
    turns: Sequence[tuple[list[int], list[int]]],
    frame: _Frame,
    context: Context,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Token ids of one input, and where the utterance's own words begin and end."""
    room = context.tokens - len(frame.prefix) - len(frame.suffix)
    name, words = turns[row]
    # A text of which the tokenizer knows nothing is still one that was said.
    name, words = name[: room // 2], words or [frame.unknown]
    words = words[: room - len(name)]
    room -= len(name) + len(words)
    before: list[int] = []
    after: list[int] = []
    for other in neighbours:
        turn = [*turns[other][0], *turns[other][1]]
        if not turn:
            continue
        room -= len(frame.between)
        if room <= 0:
            break
        # Of a turn that does not fit, the part that is nearer.
        if other < row:
            before = [*turn[-room:], *frame.between, *before]
        else:
            after = [*after, *frame.between, *turn[:room]]
        room -= min(room, len(turn))
    start = len(frame.prefix) + len(before) + len(name)
    ids = [*frame.prefix, *before, *name, *words, *after, *frame.suffix]
    return np.array(ids, np.int64), (start, start + len(words))
