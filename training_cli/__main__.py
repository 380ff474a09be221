"""``python -m training_cli`` is ``cnn-survival``."""

import sys

from .cli import main

sys.exit(main())
