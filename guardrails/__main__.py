"""`python -m onetake_guardrails`: lists and ends the doubts of guarded tools."""

import sys

from .library.cli import main

if __name__ == "__main__":
    sys.exit(main())
