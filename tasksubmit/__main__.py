"""``python -m tasksubmit``: the command line, which needs no plugin discovery either."""

from tasksubmit.cli import main

if __name__ == "__main__":
    main()
