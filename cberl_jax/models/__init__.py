"""The networks of CBERL as flax.linen modules; parameters are plain trees."""
