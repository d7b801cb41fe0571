"""`python -m omnitok` is the command `omnitok`."""

import sys

from omnitok.cli import main

if __name__ == "__main__":
    sys.exit(main())
