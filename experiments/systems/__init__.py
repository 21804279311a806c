"""The page of the published systems."""
