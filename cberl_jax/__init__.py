"""CBERL: emotion recognition in conversations that hears the rare emotions, in JAX."""

from cberl_jax.version import __version__

__all__ = ["__version__"]
