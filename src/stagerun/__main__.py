"""``python -m stagerun`` is the command line."""

from stagerun.cli.main import main

if __name__ == "__main__":
    main()
