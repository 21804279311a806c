"""Measurements beside published figures: results, figures and the build-vs-buy report."""
