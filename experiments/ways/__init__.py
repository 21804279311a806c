"""Sections of the report on other ways than training a network from nothing."""
