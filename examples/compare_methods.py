"""Compare a search, two criteria and random masks on scikit-learn's digits, as `masksearch run` does."""

import tempfile

from masksearch.cli import main as masksearch


def main(epochs: int = 10, budget: int = 300) -> int:
    with tempfile.TemporaryDirectory() as runs:  # give a folder of yours to keep the report
        flags = "--methods annealing magnitude snip random --sparsity 0.9 --seeds 2 --threads 1 --name tutorial"
        sizes = f"--epochs {epochs} --budget {budget} --runs {runs}"
        return masksearch(["run", *flags.split(), *sizes.split()])


if __name__ == "__main__":
    main()
