"""Trained members applied to new conversations."""
