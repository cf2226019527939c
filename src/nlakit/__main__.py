"""`python -m nlakit` is the same command as `nlakit`."""

from nlakit.cli import main

if __name__ == "__main__":
    main()
