"""Scripts that take a recipe from a laptop to TPU pods; see docs/launch.md."""
