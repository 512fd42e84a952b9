"""The replay: sequences of stored steps, the ring in memory, the chunks on disk."""
