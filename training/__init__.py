"""Training: what makes the bundled networks, and what measures them."""

import sys

from editor import cli

if sys.argv[0] == "-m":  # python -m training.NAME: its imports (PyTorch) take seconds, in which Ctrl-C may come
    cli.stand_ready()
