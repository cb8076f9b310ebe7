"""Training a stage: the step, the loop, validation, telemetry, saving."""
