"""`python -m mmray`: the command line, where the script `mmray` is not on the path."""

from mmray.cli import main

main()
