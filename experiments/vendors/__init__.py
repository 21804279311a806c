"""Vendors asked about the sealed test images: what they are sent, how they are asked, and how they are scored."""
