"""How the features of a corpus were made, as far as its file says: a record per modality."""

import json
from collections.abc import Mapping
from typing import Any

from cberl_jax.data.corpus import Corpus
from cberl_jax.errors import UserError

# What decides the meaning of a feature; see ``features/provenance.py``.
COMPARED = ("extractor", "causal", "weights", "pooling", "faces", "context", "crossfit")
_SHOWN = 60


def parse_provenance(text: str, source: str) -> dict[str, dict[str, Any]]:
    """Reads the key ``provenance`` of a canonical file.

    Args:
      text: JSON, modality -> record.
      source: name of the file, for messages.

    Raises:
      UserError: it is not that.
    """
    try:
        records = json.loads(text)
    # Nesting without end is no ValueError.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: 'provenance' is not JSON; take the key away.") from error
    if not isinstance(records, dict) or not all(isinstance(r, dict) for r in records.values()):
        raise UserError(f"{source}: 'provenance' has to hold a record per modality.")
    return records


def check_provenance(corpus: Corpus, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses features that were made otherwise than those that a model has learned from.

    Args:
      corpus: the features; where either side says nothing, there is nothing to compare.
      wanted: modality -> record, of the model.

    Raises:
      UserError: naming the modality and what differs.
    """
    for modality, asked in wanted.items():
        own = corpus.provenance.get(modality, {})
        key = find_difference(own, asked)
        if key is None:
            continue
        # Digests tell a person nothing.
        shown = "encoder" if key == "weights" else key
        here, there = (record.get(shown, "unknown") for record in (own, asked))
        raise corpus.error(
            f"its features of {modality!r} were made otherwise than those of the run ({key}: "
            f"{_show(here)} here, {_show(there)} there); extract them as for the run."
        )


def list_looking_ahead(corpus: Corpus) -> list[str]:
    """The features of which the file says that they were made with a look at later turns."""
    return [name for name in corpus.features if _looks_ahead(corpus.provenance.get(name, {}))]


def _looks_ahead(record: Mapping[str, Any]) -> bool:
    context = record.get("context")
    future = context.get("future") if isinstance(context, dict) else 0
    return record.get("causal") is False or bool(future)


def warn_of_later_turns(corpus: Corpus) -> list[str]:
    """What to know where a model is to see no future of features that do."""
    ahead = list_looking_ahead(corpus)
    if not ahead:
        return []
    return [
        f"the features {', '.join(ahead)} look at later turns, so that this causal model depends "
        "on them all the same; make features for it by cberl extract --causal"
    ]


def find_difference(own: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """What of ``COMPARED`` two records contradict each other in; None where both agree."""
    for key in COMPARED:
        if key not in own or key not in asked or own[key] == asked[key]:
            continue
        here, there = own[key], asked[key]
        # Names of files and folders may differ, and so may what was hashed.
        if key == "weights" and (
            _digests(here) == _digests(there) or ("state" in here) != ("state" in there)
        ):
            continue
        return key
    return None


def _digests(weights: Any) -> Any:
    return sorted(map(str, weights.values())) if isinstance(weights, dict) else weights


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
