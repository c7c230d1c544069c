"""Settings, presets, grids of settings, and the variants of an ablation."""
