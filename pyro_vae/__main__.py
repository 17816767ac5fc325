"""`python -m pyro_vae`: the command line."""

from __future__ import annotations

import sys

from pyro_vae.cli import main

if __name__ == "__main__":
    sys.exit(main())
