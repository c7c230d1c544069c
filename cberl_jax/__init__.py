"""CBERL: emotion recognition in conversations, built for the rare emotions, in JAX.

    import cberl_jax as cberl

    run = cberl.train("meld.npz", config="meld", seeds=8, workdir="runs/meld")
    print(run.report())
    cberl.load("runs/meld").predict("conversations.jsonl")

- ``train`` trains many seeds at once and gives a ``Run``, whose ``report`` is a ``Report``.
- ``load`` gives the ``Model`` of a run, which predicts the emotions of new conversations.
- ``sweep`` compares the values of settings on dev, ``ablate`` the parts of CBERL on test, and
  ``compare`` two runs; they give a ``SweepReport``, an ``AblationReport`` and a ``Comparison``.
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
        SweepReport,
        ablate,
        compare,
        convert,
        export,
        load,
        sweep,
        train,
    )

__all__ = [
    "train",
    "load",
    "sweep",
    "ablate",
    "compare",
    "convert",
    "export",
    "Run",
    "Model",
    "Report",
    "SweepReport",
    "AblationReport",
    "Comparison",
    "UserError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("cberl_jax.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
