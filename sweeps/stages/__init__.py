"""The stages of a sweep: search, confirmation, final and test."""
