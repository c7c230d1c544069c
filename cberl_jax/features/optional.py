"""Libraries that only a part of the package needs, each in an extra of the installation."""

import importlib
from types import ModuleType

from cberl_jax.errors import UserError


def load_library(name: str, extra: str = "features") -> ModuleType:
    """Imports a library of an extra.

    Args:
      name: of the library.
      extra: that it comes with.

    Raises:
      UserError: it is not installed; the message says how it would be.
    """
    return find_library(name, f"install it with: pip install 'cberl-jax[{extra}]'")


def find_library(name: str, way_out: str) -> ModuleType:
    """Imports a library that may be missing.

    Args:
      name: of the library.
      way_out: the end of the message, what to do then.

    Raises:
      UserError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is needed for this and cannot be imported ({error}); {way_out}"
        ) from error
