"""Verb ``audit``: which labels of a split are probably wrong, from its features alone."""
