"""`python -m jobmanager`: the command line."""

from jobmanager.cli import main

if __name__ == "__main__":
    main()
