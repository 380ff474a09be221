"""Entry point for ``python -m training_cli.demo``."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
