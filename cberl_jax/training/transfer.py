"""Members that start from the weights of another run, on another corpus.

A layer is taken over whole or not at all. Layers of one modality need that modality to be the same;
layers that read all modalities at once need all of them to be. The last layer is taken over class
by class, by name.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cberl_jax.config.views import group_views, modality_of
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.provenance import find_difference
from cberl_jax.data.standardize import Standardiser, standardised_widths
from cberl_jax.errors import UserError
from cberl_jax.models.cberl import PARTS

# Layers whose columns are those of all modalities together.
_JOINT = (("djvae", "fuse"), ("concatenation",), ("ensemble",))
# Leaves of the ensemble whose last axis is that of the classes.
_OF_CLASSES = ("bias", "kernel", "linear")
Path = tuple[str, ...]


class Start(NamedTuple):
    """What new members start from.

    Attributes:
      name: of the run's folder.
      digest: of its checkpoint, so that a run that resumes has the same start.
      variables: kept ``params`` and ``constants`` of its M sound members, leaves [M, ...].
      classes: names of its classes.
      standardiser: its train statistics.
      features: name of features -> how they were made, where that is known.
      held_out: dialogue of its dev or test -> its split there, and the class of each turn, empty
        where there is none.
    """

    name: str
    digest: str
    variables: Mapping[str, Any]
    classes: tuple[str, ...]
    standardiser: Standardiser
    features: Mapping[str, Mapping[str, Any]] = {}
    held_out: Mapping[str, tuple[str, tuple[str, ...]]] = {}


class Taken(NamedTuple):
    """What became of one part of the model.

    Attributes:
      part: of ``PARTS``.
      taken: parameters that were taken over.
      fresh: parameters that were drawn.
      why: what the drawn ones belong to.
    """

    part: str
    taken: int
    fresh: int
    why: str

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.part}: {self.taken} parameters are taken over, {self.fresh} are fresh{why}"


def list_held_out(stored: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """``Start.held_out`` of the arrays of a run's ``predictions.npz``."""
    names, found = [*stored["classes"].tolist(), ""], {}
    for split in ("dev", "test"):
        turns: dict[str, list[str]] = {}
        pairs = zip(stored[f"{split}.dialogue"].tolist(), stored[f"{split}.label"].tolist())
        for dialogue, label in pairs:
            turns.setdefault(dialogue, []).append(names[label])
        found |= {dialogue: (split, tuple(own)) for dialogue, own in turns.items()}
    return found


def check_splits(start: Start, corpora: Sequence[Corpus]) -> None:
    """Refuses splits by which members would be tested on what the run has learnt from.

    What is known of the run's corpus is its dev and test. Where a corpus holds most of that, it is
    the same one, and where these dialogues are in other splits, so are those of the run's train.

    Args:
      start: the run.
      corpora: the new corpus, with the splits of each fold.

    Raises:
      UserError: naming a dialogue and its splits.
    """
    for corpus in corpora:
        names, first = (*corpus.classes, ""), corpus.start
        places = {name: place for place, name in enumerate(corpus.dialogue.tolist())}
        known = []
        for dialogue, (split, turns) in start.held_out.items():
            place = places.get(dialogue)
            if place is None:
                continue
            own = corpus.label[first[place] : first[place] + corpus.length[place]]
            if tuple(names[label] for label in own) == turns:
                known.append((dialogue, split, str(corpus.split[place])))
        moved = [own for own in known if own[1] != own[2]]
        if moved and 2 * len(known) > len(start.held_out):
            dialogue, there, here = moved[0]
            raise UserError(
                f"{start.name}: was trained on dialogues of {corpus.source} by other splits "
                f"({dialogue!r} was in {there} there and is in {here} here), so that members would "
                "be tested on what it has learnt from; start from a run on another corpus, keep "
                "its splits, or accept it by --allow_seen (data.allow_seen in a config)"
            )


def shared_modalities(start: Start, corpus: Corpus, components: int) -> tuple[str, ...]:
    """The modalities that a corpus and a run have in common: equal views of equal widths.

    Views of which both say how they were made have to be made alike.

    Args:
      start: the run.
      corpus: the new corpus.
      components: principal components that its modalities are reduced to; 0 = none.

    Raises:
      UserError: there is none.
    """
    axes, widths = start.standardiser.axes, start.standardiser.widths
    known = {v: (width, axes[v].shape[1] if v in axes else width) for v, width in widths.items()}
    kept = standardised_widths(corpus.widths, components)
    own = {view: (width, kept[view]) for view, width in corpus.widths.items()}
    theirs = group_views(known)

    def is_equal(view: str) -> bool:
        records = (corpus.provenance.get(view, {}), start.features.get(view, {}))
        return own[view] == known[view] and find_difference(*records) is None

    shared = tuple(
        modality
        for modality, views in group_views(own).items()
        if theirs.get(modality) == views and all(map(is_equal, views))
    )
    if not shared:

        def tell(widths: Mapping[str, int]) -> str:
            return ", ".join(f"{name} ({width})" for name, width in widths.items())

        raise UserError(
            f"{start.name}: cannot be started from: it has {tell(start.standardiser.widths)}, and "
            f"{corpus.source} has {tell(corpus.widths)}, so no layer would read what it has learnt "
            "from; use features of the same extractors and the same data.components"
        )
    return shared


def start_standardiser(own: Standardiser, start: Start, shared: Sequence[str]) -> Standardiser:
    """The statistics of the run for the modalities that are shared, the corpus's own for others.

    Layers that were learnt on one scale are of no use on another.
    """
    theirs = start.standardiser
    return Standardiser(
        *(
            {v: (theirs if modality_of(v) in shared else own)[field][v] for v in own[field]}
            for field in range(len(own))
        )
    )


def _obstacle(layer: Path, shared: Sequence[str], all_modalities: Collection[str]) -> str:
    """Why a layer of equal shape is not taken over all the same; empty where it is."""
    for modality in all_modalities:
        if any(name.endswith(f"_{modality}") for name in layer) and modality not in shared:
            return f"{modality} is not shared"
    if set(shared) != set(all_modalities) and any(layer[: len(own)] == own for own in _JOINT):
        return "not all modalities are shared"
    return ""


def take_over(
    variables: Mapping[str, Any],
    seeds: np.ndarray,
    start: Start,
    corpus: Corpus,
    components: int,
) -> tuple[dict[str, Any], list[Taken]]:
    """Replaces drawn parameters by those of a run, where they fit.

    Args:
      variables: ``params`` and ``constants`` of S new members, leaves [S, ...].
      seeds: [S] int, theirs; that of seed k starts from the run's sound member k modulo M.
      start: the run.
      corpus: what the new members learn from.
      components: as of ``shared_modalities``.

    Returns:
      The variables, and a line per part of the model.
    """
    shared, classes = shared_modalities(start, corpus, components), corpus.classes
    modalities = {*map(modality_of, (*corpus.widths, *start.standardiser.widths))}
    new, old = flatten_dict(variables), flatten_dict(start.variables)
    order = seeds % len(next(iter(old.values())))
    mine = [n for n, name in enumerate(classes) if name in start.classes]
    theirs = [start.classes.index(classes[n]) for n in mine]
    unknown = [name for name in classes if name not in start.classes]
    result, counts = dict(new), {part: [0, 0, {}] for part in PARTS}
    layers: dict[Path, list[Path]] = {}
    for path in new:
        layers.setdefault(_layer(path), []).append(path)
    for layer, paths in layers.items():
        reason = _obstacle(layer, shared, modalities)
        if not reason and not all(
            path in old and _shape(path, new[path]) == _shape(path, old[path]) for path in paths
        ):
            reason = "another shape"
        if not reason and any(_count_seen(path, new) != _count_seen(path, old) for path in paths):
            reason = "another model.subspace"
        part = next(name for name, modules in PARTS.items() if layer[0] in modules)
        for path in paths:
            leaf, taken = new[path], 0
            if not reason and _is_of_classes(path):
                result[path] = leaf.copy()
                result[path][..., mine] = old[path][order][..., theirs]
                taken = leaf[0, ..., mine].size
            elif not reason:
                result[path] = old[path][order]
                taken = leaf[0].size
            if path[0] == "params":
                counts[part][0] += taken
                counts[part][1] += leaf[0].size - taken
        why = reason
        if unknown and any(map(_is_of_classes, paths)):
            why = why or f"new classes: {', '.join(unknown)}"
        if why:
            counts[part][2].setdefault(why, []).append("/".join(layer))
    lines = []
    for part, (taken, fresh, reasons) in counts.items():
        if taken + fresh:
            why = "; ".join(f"{', '.join(own)}: {reason}" for reason, own in reasons.items())
            lines.append(Taken(part, taken, fresh, why))
    return unflatten_dict(result), lines


def _layer(path: Path) -> Path:
    """The layer that a leaf belongs to, without the kind of its variables."""
    # Each token is a modality's own.
    return path[1:] if path[1] == "mask_tokens" else path[1:-1]


def _is_of_classes(path: Path) -> bool:
    return path[:2] == ("params", "ensemble") and path[-1] in _OF_CLASSES


def _count_seen(path: Path, leaves: Mapping[Path, np.ndarray]) -> int:
    """How many features each classifier sees, of the leaf that says it; of others 0."""
    return int(np.count_nonzero(leaves[path][0, 0])) if path[-1] == "subspaces" else 0


def _shape(path: Path, leaf: np.ndarray) -> tuple[int, ...]:
    """What has to agree: the shape of one member's leaf, less the axis of the classes."""
    return leaf.shape[1:-1] if _is_of_classes(path) else leaf.shape[1:]
