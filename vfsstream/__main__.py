"""``python -m vfsstream``: the command line."""

from vfsstream.cli import main

if __name__ == "__main__":
    main()
