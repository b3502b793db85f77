"""``python -m glora``: the command line."""

import sys

from glora.cli import main

sys.exit(main())
