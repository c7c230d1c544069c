"""Settings, presets, grids of settings, and the variants of an ablation."""

# A person's config file is loaded as this module.
CONFIG_MODULE = "cberl_jax_config_file"
