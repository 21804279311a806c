"""Checks of a store: status, verification, repair, cleaning, and the check before a sweep."""
