"""Benchmarks of the trainer, the platform and the report."""
