"""CBERL: emotion recognition in conversations that hears the rare emotions, in JAX.

    import cberl_jax as cberl

    run = cberl.train("meld.npz", config="meld", seeds=8, workdir="runs/meld")
    print(run.report())
    model = cberl.load("runs/meld")
    model.predict(conversations)

Importing the package imports neither jax nor anything else of weight: that comes with the first use
of a name, so that flags of jax can be set before.
"""

import importlib
from typing import Any

from cberl_jax.errors import UserError
from cberl_jax.version import __version__

_LAZY = ("Model", "Report", "Run", "load", "train")

__all__ = [*_LAZY, "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("cberl_jax.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
