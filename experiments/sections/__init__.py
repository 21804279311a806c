"""Sections of the build-vs-buy report, one module a subject."""
