"""A gateway process of the tests' own before the real cluster."""

from collections.abc import Iterator

import pytest

from gateway.cluster import Cluster
from gateway.data import folder as data_folder
from tests.ports import free_port
from tests.product import Product, serving

# A batch program whose job Slurm may start again, and that needs a secret each time.
REQUEUED = """
name: requeued
version: "1"
kind: batch
image: base
parameters:
  command: {type: string}
  token: {type: secret, required: false}
secrets:
  TOKEN: {parameter: token}
command: [/bin/bash, -c, "{{ command }}"]
resources: {cpus: 1, memory: 100M, time: 30m}
lifecycle: {requeue: true}
"""


@pytest.fixture(scope="module")
def product(slurm_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("product")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "needs-nothing.yaml").write_text(
        'name: needs-nothing\nversion: "1"\nkind: batch\nimage: nothing\ncommand: ["true"]\n'
    )
    (folder / "recipes" / "requeued.yaml").write_text(REQUEUED)
    shipped = data_folder("recipes") / "llama-cpp.yaml"
    model = shipped.read_text().replace("name: llama-cpp", "name: requeued-model")
    (folder / "recipes" / "requeued-model.yaml").write_text(f"{model}\nlifecycle: {{requeue: true}}\n")
    several = shipped.read_text().replace("name: llama-cpp", "name: several")
    replicas = "service:\n  replicas: {target_in_flight: 100, scale_down_after: 3}\n"
    (folder / "recipes" / "several.yaml").write_text(several.replace("service:\n", replicas))
    with serving(slurm_cluster, folder, free_port()) as made:
        yield made


@pytest.fixture(scope="module")
def images(product: Product) -> None:
    """The images that these tests use, built as an operator builds them."""
    for name in ("base", "llama-cpp"):
        done = product.sluice("image", "build", name, within=600)
        assert done.returncode == 0, done.stderr
