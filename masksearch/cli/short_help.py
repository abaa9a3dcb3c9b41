"""The texts of ``masksearch --help`` and ``masksearch run --help``: constants, printed without importing PyTorch."""

__all__ = ["COMMANDS", "RUN"]

COMMANDS = """\
usage: masksearch COMMAND ...

Find pruning masks of neural networks by search and by criteria, retrain each masked network, and
compare all of them on the same splits, seeds and training budget.

Start here:
  masksearch run                        six methods on scikit-learn's digits, about a minute
  masksearch run --granularity filter   the same for filters, which are removed from the network
  masksearch show runs/sweep            the results again; runs/sweep/report.html is the full report
  masksearch run --help                 the main flags, with more examples

commands:
  run                 search, prune and retrain; the same command continues an interrupted run
  show FOLDER         print the results of a finished or running sweep, and what its folder contains
  compare RUN RUN ... print how sweeps differ: their settings, and their results paired by cell
  analyse RUN ...     print and draw what the masks of sweeps have in common, cost and are worth

flags:
  --list              print every method, schedule, objective, network, data set and recipe
  --version           print the version
  -h, --help          print this text; masksearch COMMAND --help lists the flags of a command
"""

RUN = """\
usage: masksearch run [flags]

Train a dense network, find masks with every method at every sparsity, retrain each masked network,
and write runs/NAME/report.html. The same command continues an interrupted run.

examples:
  masksearch run --methods annealing magnitude random --sparsity 0.9 --seeds 1 --name first
  masksearch run --dataset mnist --download --methods annealing snip magnitude --name mnist
  masksearch run --granularity filter --model resnet20 --sparsity 0.5 --name filters

data:
  --dataset NAME         data set: a row of masksearch --list, or imagefolder:PATH (default: digits)
  --data-root FOLDER     folder of the data sets (default: data)
  --download             download the data set if it is missing

network:
  --model NAME           network: a row of --list, NAME:WIDTH, or torchvision:NAME
                         (default: lenet_300_100)
  --granularity KIND     unit that one mask bit switches: weight or filter (default: weight)

search:
  --methods NAME ...     searchers, criteria and supermasks to compare: rows of --list
                         (default for weights: annealing random_search magnitude mag_sign snip
                         random; for filters: annealing random_search filter_l1 fpgm taylor random)
  --sparsity SHARE ...   pruned shares of the units (default: 0.7 0.8 0.9)
  --budget N             scorings per search (default: 1000)
  --objective NAME       objective that a search maximises: a row of --list
                         (default: calibrated_loss)

training:
  --epochs N             passes over the training examples (default: 10)
  --optimizer NAME       sgd, adam, adamw or adadelta (default: sgd)
  --lr RATE              learning rate at the start (default: 0.05)

output:
  --seeds N              number of seeds; results are means over them (default: 3)
  --name NAME            name of the experiment, and of its folder in runs (default: sweep)
  --recipe NAME          published experiment whose settings replace all defaults: a row of --list
  --device NAME          auto, cpu, cuda, cuda:1 or mps (default: auto)

other settings and names:
  --set KEY=VALUE ...    any other setting, as --set train.momentum=0.8 annealing.chains=4
  --help-all             print all flags, and all settings that --set takes
  --list                 print every method, schedule, objective, network, data set and recipe
"""
