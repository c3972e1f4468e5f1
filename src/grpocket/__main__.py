"""`python -m grpocket` is `grpocket`."""

import sys

from grpocket.cli import main

sys.exit(main())
