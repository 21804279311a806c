"""Executors: the protocol, and worker processes on this machine."""
