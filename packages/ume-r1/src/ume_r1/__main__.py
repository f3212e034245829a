"""`python -m ume_r1`: the `ume` command."""

import sys

from ume_r1.cli import main

sys.exit(main())
