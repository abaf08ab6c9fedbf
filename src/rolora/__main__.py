"""``python -m rolora``."""

from rolora.cli.main import main

if __name__ == "__main__":
    main()
