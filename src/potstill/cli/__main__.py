"""So that ``python -m potstill.cli`` is the command line."""

from potstill.cli import main

main()
