"""Fit models to data: systems of frames, statistics, losses, optimizers and checkpoints."""
