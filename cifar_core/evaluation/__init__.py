"""Evaluation of trained networks: metrics, pictures and latency."""
