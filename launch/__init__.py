"""Scripts that run recipes from a laptop to TPU pods; see docs/launch.md."""
