import sys

from masksearch.cli import main

sys.exit(main(["run", *sys.argv[1:]]))
