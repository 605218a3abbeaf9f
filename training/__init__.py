"""Offline modules: domains, synthetic data, training, export and evaluation."""
