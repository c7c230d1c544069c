"""CBERL: emotion recognition in conversations, built for the rare emotions, in JAX.

    import cberl_jax as cberl

    run = cberl.train("meld.npz", config="meld", seeds=8, workdir="runs/meld")
    print(run.report())
    cberl.load("runs/meld").predict("conversations.jsonl")

- ``train`` trains many seeds at once and gives a ``Run``, whose ``report`` is a ``Report``.
- ``load`` gives the ``Model`` of a run, which predicts the emotions of new conversations.
- ``sweep`` compares the values of settings on dev, ``ablate`` the parts of CBERL on test, and
  ``compare`` two runs; they give a ``SweepReport``, an ``AblationReport`` and a ``Comparison``.
  ``search`` looks for the settings that are best on dev and gives a ``SearchReport``.
- ``Corpus`` holds conversations; ``Corpus.from_frame`` makes one of your own table, and
  ``probe`` checks that its features belong to their utterances.
- ``convert`` writes a corpus as the canonical ``.npz``, ``export`` a run as a program that only
  needs jax.
- ``UserError`` is what all of them raise for a mistake in a file, a setting or an argument.

Importing the package imports neither jax nor anything else of weight: that comes with the first use
of a name, so that flags of jax can be set before.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cberl_jax.errors import UserError
from cberl_jax.version import __version__

if TYPE_CHECKING:
    from cberl_jax.api import (
        AblationReport,
        Comparison,
        Model,
        Report,
        Run,
        SearchReport,
        SweepReport,
        ablate,
        compare,
        convert,
        export,
        load,
        search,
        sweep,
        train,
    )
    from cberl_jax.data.corpus import Corpus
    from cberl_jax.evaluation.probe import probe

__all__ = [
    "train",
    "load",
    "sweep",
    "search",
    "ablate",
    "compare",
    "Corpus",
    "probe",
    "convert",
    "export",
    "Run",
    "Model",
    "Report",
    "SweepReport",
    "SearchReport",
    "AblationReport",
    "Comparison",
    "UserError",
    "__version__",
]

# Names that come without jax, from modules of their own; all others are the api's.
_LIGHT = {"Corpus": "cberl_jax.data.corpus", "probe": "cberl_jax.evaluation.probe"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LIGHT.get(name, "cberl_jax.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
