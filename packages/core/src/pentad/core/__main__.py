"""`python -m pentad.core` is the command `pentad`."""

from pentad.core.cli import main

main()
