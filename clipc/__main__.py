"""``python -m clipc``: the command line."""

from clipc.cli import main

if __name__ == "__main__":
    main()
