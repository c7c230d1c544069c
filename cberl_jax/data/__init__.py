"""Corpora: validation, the simulation, standardising, packing, where generated utterances go."""
