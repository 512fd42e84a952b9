"""Parameters under the names of other programs."""
