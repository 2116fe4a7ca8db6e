"""`python -m fedrec`."""

from fedrec.cli.main import main

main()
