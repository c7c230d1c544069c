"""The version of this package, and of those that numbers depend on."""

import importlib.metadata
import platform

__version__ = "0.8.8"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "jraph", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that numbers depend on."""
    own = {"python": platform.python_version(), "cberl-jax": __version__}
    return own | {name: importlib.metadata.version(name) for name in PACKAGES}
