"""Losses by kind; `tests.curvature.cases` has them all by name."""
