"""`python -m chainlytics` is `chainlytics`."""

from chainlytics.cli import main

main()
