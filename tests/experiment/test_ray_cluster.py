"""A cluster of two Ray nodes on this machine, one of which is removed while a sweep runs."""

import time

import pytest
from small_sweeps import settings_in, small_world  # noqa: F401
from test_kill import results

from masksearch.experiment import SweepCallback, run_sweep
from masksearch.experiment.store.run_hosts import places_of
from masksearch.utils.errors import InputError

ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
SWEEP = {"methods": ["annealing", "magnitude", "random"], "seeds": 3, "device": "cpu"}
FAST = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


class Removing(SweepCallback):
    """Removes a node when both workers have begun a cell."""

    def __init__(self, cluster, node):
        self.cluster, self.node, self.begun = cluster, node, []

    def beside(self, worker):
        begun, removing = self.begun, self

        class Of(SweepCallback):
            def cell_begins(self, cell):
                both = len(set(begun)) == 2
                begun.append(worker)
                if not both and len(set(begun)) == 2:
                    removing.cluster.remove_node(removing.node, allow_graceful=False)

        return Of()


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": FAST}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_sweep_continues_when_a_ray_node_is_removed(cluster, tmp_path):
    inline = results(run_sweep(settings_in(tmp_path / "inline", executor="inline", **SWEEP)).path.parent)
    node = cluster.add_node(num_cpus=1)
    removing = Removing(cluster, node)
    result = run_sweep(settings_in(tmp_path / "ray", executor=f"ray:{cluster.address}", **SWEEP), removing)
    assert set(removing.begun) == {0, 1}
    assert result.machine["workers"] == "2"
    assert results(result.path.parent) == inline
    assert {place.worker for folder in result.folders for place in places_of(folder)} == {"actor0", "actor1"}
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert sum(node["Alive"] for node in ray.nodes()) == 1
    settings = settings_in(tmp_path / "ray", executor=f"ray:{cluster.address}", threads=2, sparsity=[0.5], name="more")
    with pytest.raises(InputError, match=r"the Ray cluster has 1 CPUs, 0 GPUs and .*, and each cell needs 2 CPUs"):
        run_sweep(settings)
