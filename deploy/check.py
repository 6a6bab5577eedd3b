#!/usr/bin/env python3
"""Checks what is in deploy/, or writes anew what is rendered from the chart (--write).

Run it through deploy/check, which installs what it needs. With helm (on the path, or $HELM): the chart lints, renders to
exactly what is committed, and refuses values that cannot work. In any case: everything that is committed fits the
schemas of Kubernetes, Pods are as restricted as they claim to be, and values.yaml, values.schema.json and README.md
agree.
"""

import argparse
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate.utils
import yaml

DEPLOY = Path(__file__).resolve().parent
CHART = DEPLOY / "chart"
# The oldest that Chart.yaml allows, and the newest that there is a schema of.
KUBERNETES = ["1.27", kubernetes_validate.utils.latest_version()]
# Kinds that Kubernetes does not have itself; there is no schema to hold them to.
FOREIGN = {"ServiceMonitor", "PodMonitor", "Cluster"}

# file → values; None are the defaults.
RENDERED = {
    "manifests/deployment.yaml": None,
    "manifests/daemonset.yaml": "examples/host-network.yaml",
    "chart/golden/host-ports.yaml": "examples/host-ports.yaml",
    "chart/golden/node-ports.yaml": "examples/node-ports.yaml",
    "chart/golden/one-team.yaml": "examples/one-team.yaml",
    "chart/golden/load-balancer.yaml": "examples/load-balancer.yaml",
    "chart/golden/production.yaml": "examples/production.yaml",
    "chart/golden/takeover.yaml": "examples/takeover.yaml",
    "chart/golden/everything.yaml": "golden/everything.values.yaml",
}
# Pods of these hold ports of their node; everything else of `restricted` holds for them as well.
ON_NODES = {"manifests/daemonset.yaml", "chart/golden/host-ports.yaml", "chart/golden/load-balancer.yaml"}

# Lets any process of the Pod listen on low ports; a safe sysctl, which `restricted` allows.
LOW_PORTS = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}

# What the schema or the templates must refuse, with a word of why.
REFUSED = {
    "kinds=DaemonSet": "kinds",
    "kind=StatefulSet": "kind",
    "image.digest=latest": "digest",
    "http.containerPort=70000": "containerPort",
    "defaultCertificate=wildcard": "defaultCertificate",
    "shutdown.marginSeconds=0": "marginSeconds",
    "watchNamespaces={Shop}": "watchNamespaces",
    "ingressClass.controller=sluicegate": "controller",
    "http.enabled=false,https.enabled=false": "nothing would be served",
    "kind=DaemonSet,autoscaling.enabled=true": "needs kind: Deployment",
    "autoscaling.enabled=true,autoscaling.targetCPU=null": "targetMemory",
    "podDisruptionBudget.maxUnavailable=null": "minAvailable",
    "hostNetwork=true,networkPolicy.enabled=true": "has no effect with hostNetwork",
    "hostNetwork=true,http.hostPort=81": "http.hostPort must be",
    "hostNetwork=true,metrics.podMonitor.enabled=true": "admin port is on loopback",
    "admin.address=127.0.0.1": "needs hostNetwork",
    "metrics.serviceMonitor.enabled=true": "metrics.service.enabled",
    "state.kind=pvc": "ReadWriteMany",
    "watchNamespaces={shop},watchNamespaceSelector=a=b": "watchNamespaceSelector",
    "serviceAccount.create=false": "serviceAccount.name",
    "replicas=two": "replicas",
    "rbac.secretNames={a}": "listSecrets: false",
    "services.types={external-name}": "types",
    "services.types={cluster-ip}": "needs hostNetwork",
    "services.types={load-balancer}": "needs hostNetwork",
    "hostNetwork=true,services.types={load-balancer},status.enabled=false": "status.enabled",
}

problems = []


def problem(text):
    problems.append(text)
    print(f"  {text}", file=sys.stderr)


# -- Rendering


def helm(*arguments):
    return subprocess.run([os.environ.get("HELM", "helm"), *arguments], capture_output=True, text=True, check=False)


def template(*arguments, notes=False):
    command = ["install", "--dry-run=client"] if notes else ["template"]
    return helm(*command, "sluicegate", str(CHART), "--namespace", "sluicegate", *arguments)


def rendered(target, values):
    """The objects as they are committed: in an order of Helm's, without its labels."""
    arguments = ["--values", str(CHART / values)] if values else []
    outcome = template(*arguments)
    if outcome.returncode:
        problem(f"{target}: {outcome.stderr.strip()}")
        return None
    lines = [
        line.rstrip()
        for line in outcome.stdout.splitlines()
        if line.strip() and not re.match(r"\s+(helm\.sh/chart|app\.kubernetes\.io/managed-by):|# Source:", line)
    ]
    text = "\n".join(lines) + "\n"
    source = f"deploy/chart/{values}" if values else "the chart's defaults"
    head = f"# Rendered from {source} by deploy/check --write. Change it there.\n"
    if target.startswith("manifests/"):
        level = "privileged" if target in ON_NODES else "restricted"
        head += f"""#
#   kubectl apply -f deploy/{target}
---
apiVersion: v1
kind: Namespace
metadata:
  name: sluicegate
  labels:
    app.kubernetes.io/name: sluicegate
    pod-security.kubernetes.io/enforce: {level}
"""
    return head + text


def check_rendering(write):
    for target, values in RENDERED.items():
        text = rendered(target, values)
        path = DEPLOY / target
        if text is None:
            continue
        if write:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            problem(f"{target} is not what the chart renders: deploy/check --write, and read the difference")


def check_chart():
    outcome = helm("lint", "--strict", str(CHART))
    if outcome.returncode:
        problem(f"helm lint: {outcome.stdout}{outcome.stderr}")
    for values, why in REFUSED.items():
        outcome = template("--set", values)
        if outcome.returncode == 0:
            problem(f"--set {values} is not refused")
        elif why not in outcome.stderr:
            problem(f"--set {values} is refused, but not for {why!r}: {outcome.stderr.strip()}")


def check_transparency():
    """What the flag needs comes with it, and goes with it."""
    for wanted in (True, False):
        outcome = template("--set", f"hostNetwork=true,services.transparent={json.dumps(wanted)}")
        if outcome.returncode:
            problem(f"services.transparent={wanted}: {outcome.stderr.strip()}")
            continue
        for document in filter(None, yaml.safe_load_all(outcome.stdout)):
            for container in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                security = container["securityContext"]
                found = (
                    "--transparent" in container["args"],
                    "NET_ADMIN" in security["capabilities"].get("add", []),
                    "NET_RAW" in security["capabilities"].get("add", []),
                    # Without it, the kernel would not give what the program's file is permitted.
                    security["allowPrivilegeEscalation"],
                )
                if found != (wanted, wanted, False, wanted):
                    problem(f"services.transparent={wanted}: flag, NET_ADMIN, NET_RAW, escalation are {found}")


# -- What is committed


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@functools.cache
def read_schema(name, version):
    return json.loads((Path(kubernetes_validate.__file__).parent / name).read_text())


def check_schemas(path):
    # The package reads a megabyte for every object otherwise.
    kubernetes_validate.utils.schema_contents = read_schema
    for document in documents(path):
        if document["kind"] in FOREIGN:
            continue
        who = f"{path.relative_to(DEPLOY.parent)}: {document['kind']} {document['metadata']['name']}"
        for version in KUBERNETES:
            try:
                kubernetes_validate.utils.validate(document, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                where = ".".join(str(part) for part in getattr(error, "path", []))
                problem(f"{who} does not fit Kubernetes {version}: {where}: {error.message}")


def check_selectors(path):
    """Whoever selects Pods selects those of the workload in the same file."""
    objects = documents(path)
    workloads = [o for o in objects if o["kind"] in ("Deployment", "DaemonSet")]
    for document in objects:
        name = f"{path.name}: {document['kind']} {document['metadata']['name']}"
        spec = document.get("spec", {})
        selector = {
            "Service": lambda: spec.get("selector"),
            "Deployment": lambda: spec["selector"]["matchLabels"],
            "DaemonSet": lambda: spec["selector"]["matchLabels"],
            "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
            "PodMonitor": lambda: spec["selector"]["matchLabels"],
        }.get(document["kind"], lambda: None)()
        if not selector:
            continue
        labels = [w["spec"]["template"]["metadata"]["labels"] for w in workloads]
        if not any(selector.items() <= own.items() for own in labels):
            problem(f"{name} selects no Pod of the file")


def check_pod(path, on_nodes):
    """Pod Security `restricted`, but for ports of the node where these are meant; and what else we promise."""
    for document in documents(path):
        spec = document.get("spec", {}).get("template", {}).get("spec")
        if not spec:
            continue
        name = f"{path.name}: {document['kind']} {document['metadata']['name']}"
        demand = lambda condition, what: condition or problem(f"{name}: {what}")
        pod = spec.get("securityContext", {})
        demand(pod.get("runAsNonRoot") is True and pod.get("runAsUser", 0) > 0, "may run as root")
        demand(pod.get("seccompProfile") == {"type": "RuntimeDefault"}, "has no seccomp profile")
        demand(not (spec.get("hostPID") or spec.get("hostIPC")), "shares more than the network with its node")
        demand(on_nodes or not spec.get("hostNetwork"), "is in the network of its node")
        demand(spec.get("enableServiceLinks") is False, "takes variables from Services")
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
        for volume in spec.get("volumes", []):
            demand(set(volume) - {"name"} <= allowed, f"volume {volume['name']} is of a kind that is not allowed")
        for container in spec["containers"]:
            own = container.get("securityContext", {})
            capabilities = own.get("capabilities", {})
            announces = "--announce=l2" in container.get("args", [])
            demand(own.get("allowPrivilegeEscalation") is announces, "may gain privileges")
            demand(own.get("readOnlyRootFilesystem") is True, "may write to its image")
            demand(not own.get("privileged"), "is privileged")
            demand(capabilities.get("drop") == ["ALL"], "keeps capabilities")
            rights = {"NET_BIND_SERVICE"} | ({"NET_ADMIN", "NET_RAW"} if announces else set())
            demand(set(capabilities.get("add", [])) <= rights, "adds capabilities")
            ports = container.get("ports", [])
            low = any(port["containerPort"] < 1024 for port in ports)
            on_node = bool(spec.get("hostNetwork"))
            demand((low and on_node) == bool(capabilities.get("add")), "has a capability that does not fit its ports")
            sysctls = pod.get("sysctls", [])
            demand((low and not on_node) == (sysctls == [LOW_PORTS]), "has sysctls that do not fit its ports")
            demand(on_nodes or not any("hostPort" in port for port in ports), "holds ports of its node")
            demand({"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), "lacks a probe")
            demand(container.get("resources", {}).get("requests"), "asks for no resources")
            check_shutdown(name, spec, container)


def check_shutdown(name, spec, container):
    arguments = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"] if "=" in argument)
    lame_duck, drain = (int(arguments[flag].removesuffix("s")) for flag in ("lame-duck", "drain-timeout"))
    if spec.get("terminationGracePeriodSeconds", 30) < lame_duck + drain + 5:
        problem(f"{name}: is killed before its drain is over")
    probe = container["readinessProbe"]
    if probe["periodSeconds"] * probe["failureThreshold"] <= lame_duck:
        problem(f"{name}: counts as gone before its lame-duck time is over")


# -- Values


def leaves(value, path=""):
    """Every value that can be set, as its path. An empty object is one value, as users fill it."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def properties(schema, path=""):
    inner = schema.get("properties")
    if not inner:
        yield path
        return
    if schema.get("additionalProperties") is not False:
        problem(f"values.schema.json: {path or 'the whole'} takes names that do not exist")
    for key, below in inner.items():
        yield from properties(below, f"{path}.{key}" if path else key)


# Objects of Kubernetes with values in them: one value of ours.
WHOLE = ("resources", "nodeSelector", "podSecurityContext", "securityContext", "probes.startup", "probes.liveness", "probes.readiness")


def check_values():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    for path in [CHART / "values.yaml", *sorted((CHART / "examples").glob("*.yaml")), CHART / "golden/everything.values.yaml"]:
        for error in jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(path.read_text())):
            problem(f"{path.name}: {'.'.join(map(str, error.path))}: {error.message}")
    whole = lambda path: next((one for one in WHOLE if path == one or path.startswith(one + ".")), path)
    defaults = {}
    for path, value in leaves(values):
        defaults.setdefault(whole(path), value)
    known = {whole(path) for path in properties(schema)} - {"global", "enabled"}
    compare("values.yaml", set(defaults), "values.schema.json", known)
    documented = re.findall(r"^\| `([\w.]+)` \| (.*?) \|", (CHART / "README.md").read_text(), re.MULTILINE)
    compare("values.yaml", set(defaults), "README.md", {name for name, _ in documented})
    for name, default in documented:
        value = defaults.get(name)
        if isinstance(value, (bool, int, str)) and value != "" and name not in WHOLE:
            shown = f"`{json.dumps(value) if not isinstance(value, str) else value}`"
            if default != shown:
                problem(f"README.md says that the default of {name} is {default}, and values.yaml says {shown}")


def compare(one, names, other, others):
    for name in sorted(names - others):
        problem(f"{name} is in {one} and not in {other}")
    for name in sorted(others - names):
        problem(f"{name} is in {other} and not in {one}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write what is rendered instead of comparing it")
    write = parser.parse_args().write
    if shutil.which(os.environ.get("HELM", "helm")):
        print(helm("version", "--short").stdout.strip())
        check_rendering(write)
        check_chart()
        check_transparency()
    elif write:
        sys.exit("helm is needed: put it on the path, or its path in HELM")
    else:
        print("NOT RUN: the chart was not rendered, there is no helm for this machine")
    committed = [DEPLOY / target for target in RENDERED]
    others = sorted((DEPLOY / "kubernetes").glob("*.yaml")) + sorted((DEPLOY.parent / "examples/kubernetes").glob("*.yaml"))
    for path in committed + others:
        if not path.exists():
            problem(f"{path.relative_to(DEPLOY)} is missing")
            continue
        check_schemas(path)
    for path in committed + sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        if path.exists():
            check_selectors(path)
            check_pod(path, str(path.relative_to(DEPLOY)) in ON_NODES)
    check_values()
    if problems:
        sys.exit(f"{len(problems)} problems")
    print(f"{len(committed) + len(others)} files fit Kubernetes {' and '.join(KUBERNETES)}; values, schema and README agree")


if __name__ == "__main__":
    main()
