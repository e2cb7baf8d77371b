"""`python -m claw` is the command line."""

import sys

from claw.cli import main

sys.exit(main())
