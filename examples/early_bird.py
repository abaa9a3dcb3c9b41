"""Early-bird tickets: filters chosen while the dense network still trains, beside filters chosen at its end."""

import tempfile

from masksearch.cli import main as masksearch


def main(epochs: int = 20, sparsity: float = 0.5) -> int:
    with tempfile.TemporaryDirectory() as runs:
        flags = "--granularity filter --methods bn_scale --schedule one_shot early_bird --model resnet20:0.25 --seeds 1"
        sizes = f"--epochs {epochs} --sparsity {sparsity} --rewind-to 0 --threads 1 --runs {runs} --name early"
        masksearch(["run", *flags.split(), *sizes.split()])
        return masksearch(["analyse", f"{runs}/early", "--what", "early_bird"])


if __name__ == "__main__":
    main()
