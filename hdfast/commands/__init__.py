"""The verbs of the `hdfast` command: one verb, one file."""
