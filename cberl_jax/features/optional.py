"""The libraries of the extra ``features``, which only the extraction needs."""

import importlib
from types import ModuleType

from cberl_jax.errors import UserError


def load_library(name: str) -> ModuleType:
    """Imports a library of the extra.

    Raises:
      UserError: it is not installed; the message says how it would be.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is needed for this and cannot be imported ({error}); install it with: "
            "pip install 'cberl-jax[features]'"
        ) from error
