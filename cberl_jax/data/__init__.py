"""Corpora: files, validation, the simulation, packing, and where generated utterances go."""
