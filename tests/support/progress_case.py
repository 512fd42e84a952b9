"""What a terminal shows."""

import errno
import os
import select


def drain(descriptor: int, until: str = "") -> str:
    """A terminal's output up to a text, or all of it if the other side is closed."""
    seen, text = b"", until.encode()
    while not (text and text in seen):
        assert select.select([descriptor], [], [], 120)[0], seen
        try:
            seen += os.read(descriptor, 65536)
        except OSError as error:  # the other side is closed and all of it read
            assert error.errno == errno.EIO and not until, seen
            break
    return seen.decode()
