"""The driver: stages, rounds, steps; compilation, checkpoints, logs."""
