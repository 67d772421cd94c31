"""``python -m allpacs`` is ``allpacs``."""

from allpacs.cli import main

if __name__ == "__main__":
    main()
