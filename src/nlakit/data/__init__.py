"""Activations and labels on disk: extraction, shards, label sets, the reference training files."""
