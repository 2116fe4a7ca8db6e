"""What a round costs: the same as `fedrec benchmark rounds`, with its options."""

import sys

from fedrec.cli.main import main

if __name__ == "__main__":
    main(["benchmark", "rounds", *sys.argv[1:]])
