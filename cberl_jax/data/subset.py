"""A part of a corpus: some of its modalities or views, or some of its train dialogues."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cberl_jax.config.views import list_names, modality_of, views_left_out
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.text_layers import TEXT_LAYER


def select_modalities(corpus: Corpus, names: str) -> Corpus:
    """Keeps some modalities.

    Args:
      corpus: the corpus.
      names: ``all``, or names of modalities joined by commas.

    Returns:
      The corpus with these modalities, in its own order.

    Raises:
      UserError: the corpus has no such modality, or none is named.
    """
    if names == "all":
        return corpus
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in corpus.modalities:
            raise corpus.error(f"has no modality {name!r}, only {', '.join(corpus.modalities)}")
    return _keep(corpus, [name for name in corpus.features if modality_of(name) in wanted])


def select_views(corpus: Corpus, names: str) -> Corpus:
    """Keeps some views of modalities.

    Args:
      corpus: the corpus.
      names: of views, joined by commas; empty for all. A modality of which none is named keeps all
        its views: ``select_modalities`` takes modalities away.

    Returns:
      The corpus with these views, in its own order.

    Raises:
      UserError: the corpus has no such view.
    """
    for name in list_names(names):
        if name not in corpus.features:
            kept_apart = ""
            if name.startswith(TEXT_LAYER):
                kept_apart = "; data.text_layers=views keeps text layers apart"
            raise corpus.error(
                f"has no view {name!r}, only {', '.join(corpus.features)}{kept_apart}"
            )
    kept = [name for name in corpus.features if not views_left_out(name, names)]
    return corpus if len(kept) == len(corpus.features) else _keep(corpus, kept)


def _keep(corpus: Corpus, kept: Sequence[str]) -> Corpus:
    return dataclasses.replace(
        corpus,
        features={name: corpus.features[name] for name in kept},
        present={name: corpus.present[name] for name in kept},
    )


def keep_train_share(corpus: Corpus, share: float, seed: int = 0) -> Corpus:
    """Keeps some of the train dialogues, for a curve of scores against the size of a corpus.

    Args:
      corpus: the corpus.
      share: of the train dialogues, in (0, 1]; at least one is kept.
      seed: of the choice. A smaller share is a part of every larger one.

    Returns:
      The corpus with these train dialogues, in their order, and all of dev and test.
    """
    train = np.flatnonzero(corpus.split == "train")
    order = np.random.default_rng(seed).permutation(train)
    dropped = order[max(1, round(share * len(train))) :]
    if not len(dropped):
        return corpus
    kept = np.setdiff1d(np.arange(len(corpus.dialogue)), dropped)
    here = np.isin(corpus.dialogue_of, kept)
    return dataclasses.replace(
        corpus,
        **{name: getattr(corpus, name)[kept] for name in ("dialogue", "split", "length")},
        **{name: getattr(corpus, name)[here] for name in ("speaker", "label")},
        features={name: values[here] for name, values in corpus.features.items()},
        present={name: there[here] for name, there in corpus.present.items()},
        utterance=None if corpus.utterance is None else corpus.utterance[here],
        groups={name: values[kept] for name, values in corpus.groups.items()},
    )
