"""The version of this package, readable without importing jax."""

__version__ = "0.4.0"
