"""`python -m edgepep`: the command line."""

from edgepep.cli import main

main()
