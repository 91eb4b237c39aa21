"""For torchrun: `torchrun --nproc-per-node N -m trainer DATA --out RUN` runs `sightline train` in N processes."""

import sys

from sightline.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
