"""`python -m claw` is the command line."""

from claw.cli import main

raise SystemExit(main())
