"""`python -m hdfast` is the `hdfast` command."""

import sys

from hdfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
