"""``python -m rolora``."""

from rolora.cli import main

if __name__ == "__main__":
    main()
