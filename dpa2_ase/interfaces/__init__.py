"""Entrances from other programs."""
