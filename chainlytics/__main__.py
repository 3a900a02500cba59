"""`python -m chainlytics` is `chainlytics`."""

import gc


def main() -> None:
    """Run the command line.

    What imports make stays: the collector, which would walk all of it over and over, begins with
    ``calm_collector``. A server starts a sixth sooner.
    """
    gc.disable()
    from chainlytics import cli

    cli.main()


if __name__ == "__main__":
    main()
