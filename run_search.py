import sys

from masksearch.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
