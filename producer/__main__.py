"""`python -m soundmill.producer`: the command line without its script."""

from .cli import main

main()
