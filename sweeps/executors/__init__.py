"""Executors: the protocol, and workers on this machine or a Ray cluster."""
