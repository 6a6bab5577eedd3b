#!/usr/bin/env python3
"""Compares what proxies cost per request, in one run, as ratios.

Each proxy has one CPU to itself with one worker; load and backend share the other. Rounds are interleaved (ABBA) and half
of them swap the CPUs. The figure is the CPU time of the proxy's threads and processes (schedstat, nanoseconds) per
request, and the answer is its ratio to a blind byte relay measured in the same round. The load checks every byte.

    cargo build --release -p sluicegate && cargo build --release -p benches
    benches/compare.py small-get
    benches/compare.py small-get --peers relay,sluicegate --rounds 8
    benches/compare.py all --out target/compare

Needs root for the congestion control setting (it is put back); says so and goes on without it. A peer that is not
installed is skipped, and said to be.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"
BACKENDS = ["127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14"]
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
FOUR = ["relay", "sluicegate", "nginx", "haproxy"]

# scenario → load arguments, the peers it is about, what to say about it
SCENARIOS = {
    "small-get": {
        "load": ["--requests", "200000", "--warmup", "20000"],
        "peers": FOUR + ["nginx-lean", "haproxy-lean"],
        "about": "64 keep-alive connections, GET, 13-byte answer, no access log",
    },
    "small-get-browser": {
        "load": ["--requests", "200000", "--warmup", "20000", "--browser-head"],
        "peers": FOUR,
        "about": "the same with a request head of 430 bytes",
    },
    "small-get-json-log": {
        "load": ["--requests", "200000", "--warmup", "20000"],
        "peers": FOUR,
        "log": True,
        "about": "the same as small-get with a JSON access log to a file",
    },
    "get-1mib": {
        "load": ["--body", "1048576", "--connections", "8", "--requests", "4000", "--warmup", "400"],
        "peers": FOUR[:1] + ["relay-splice"] + FOUR[1:] + ["haproxy-splice"],
        "about": "8 keep-alive connections, answers of 1 MiB",
    },
    "upload-10mib-chunked": {
        "load": ["--upload", "10485760", "--chunked", "--connections", "4", "--requests", "250", "--warmup", "25"],
        "peers": FOUR + ["nginx-stream"],
        "about": "4 keep-alive connections, POST of 10 MiB in chunks of 16 KiB",
    },
    "hosts-10k": {
        "load": ["--requests", "200000", "--warmup", "20000", "--hosts", "10000"],
        "peers": ["relay", "sluicegate-one-route", "sluicegate"],
        "table": "hosts",
        "about": "small-get over 10,000 hosts, each an Ingress of its own, against a one-route table for the same requests",
    },
    "paths-10k": {
        "load": ["--requests", "200000", "--warmup", "20000", "--paths", "10000"],
        "peers": ["relay", "sluicegate-one-route", "sluicegate"],
        "table": "paths",
        "about": "small-get over 10,000 paths of one host, against a one-route table for the same requests",
    },
    "churn": {
        "load": ["--one-shot", "--requests", "20000", "--warmup", "2000"],
        "peers": FOUR,
        "about": "64 connections at once, a new one for each small GET (the relay opens one upstream for each, too)",
    },
    "idle-10k": {
        "load": ["--connections", "10000", "--in-flight", "64", "--requests", "10000", "--warmup", "0",
                 "--hold-seconds", "3"],
        "peers": FOUR[1:],
        "memory": True,
        "about": "process memory (PSS) per connection, 10,000 keep-alive connections idle after one request each",
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="+", choices=[*SCENARIOS, "all"], help="what to measure")
    parser.add_argument("--peers", help="comma-separated; default: those that the scenario is about")
    parser.add_argument("--rounds", type=int, default=4, help="rounds; half of them on swapped CPUs (default 4)")
    parser.add_argument("--rate", type=float, help="requests per second instead of a closed loop")
    parser.add_argument("--binaries", type=Path, default=default_binaries(), help="folder of the release binaries")
    parser.add_argument("--out", type=Path, help="folder for JSON results (default: BINARIES/../compare)")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    # However it is ended, what it started is ended and the congestion control put back.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    for name in ("relay", "loadgen"):
        if not (args.binaries / name).exists():
            sys.exit(f"{args.binaries / name} is missing: cargo build --release -p benches")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two CPUs are needed: one for the proxy, one for load and backend")
    names = list(SCENARIOS) if "all" in args.scenario else args.scenario
    before = use_cubic()
    try:
        for name in names:
            Comparison(name, args).run()
    finally:
        if before is not None:
            CONGESTION.write_text(before)


def default_binaries():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def use_cubic():
    """bbr without fq paces on loopback, which would measure timers."""
    before = CONGESTION.read_text().strip()
    if before == "cubic":
        return None
    try:
        CONGESTION.write_text("cubic")
    except OSError as error:
        print(f"congestion control stays {before} ({error}): expect pacing", file=sys.stderr)
        return None
    return before


class Comparison:
    def __init__(self, name, args):
        self.name, self.args, self.scenario = name, args, SCENARIOS[name]
        wanted = args.peers.split(",") if args.peers else self.scenario["peers"]
        self.peers = [peer for peer in wanted if self.is_there(peer)]
        self.unit = "B/connection" if self.scenario.get("memory") else "µs CPU/request"

    def is_there(self, peer):
        kind = peer.split("-")[0]
        found = (self.args.binaries / kind).exists() if kind in ("relay", "sluicegate") else find(kind)
        if not found:
            print(f"{peer}: not there, skipped", file=sys.stderr)
        return bool(found)

    def run(self):
        print(f"\n{self.name}: {self.scenario['about']}")
        rows = []
        for number in range(self.args.rounds):
            order = self.peers if number % 2 == 0 else self.peers[::-1]
            cpus = (0, 1) if number % 4 in (0, 3) else (1, 0)
            row = {}
            for peer in order:
                row[peer] = self.measure(peer, cpus)
                figure = row[peer].get("figure")
                print(f"  round {number + 1}/{self.args.rounds} cpu{cpus[0]} {peer:22} "
                      + (f"{figure:10.2f} {self.unit}" if figure is not None else f"FAILED {row[peer]['error']}"),
                      file=sys.stderr)
            rows.append({"cpus": cpus, "results": row})
        self.report(rows)

    def measure(self, peer, cpus):
        with tempfile.TemporaryDirectory(prefix="compare-") as folder:
            proxy = Proxy(peer, self.scenario, Path(folder), self.args.binaries, cpus[0])
            try:
                proxy.start()
                return self.load(proxy, cpus)
            except (RuntimeError, OSError, subprocess.SubprocessError, ValueError) as error:
                return {"error": str(error)}
            finally:
                proxy.stop()

    def load(self, proxy, cpus):
        command = [self.args.binaries / "loadgen", "--target", f"127.0.0.1:{proxy.port}", "--pid", proxy.process.pid]
        for host in BACKENDS:
            command += ["--backend", f"{host}:{proxy.backend_port}"]
        command += self.scenario["load"]
        if proxy.kind != "relay":
            command.append("--expect-forwarded")
        if self.args.rate:
            command += ["--rate", self.args.rate]
        before = Machine(proxy.process.pid)
        run = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=180,
                             env={**os.environ, "RUST_BACKTRACE": "0"},
                             preexec_fn=lambda: os.sched_setaffinity(0, {cpus[1]}))
        if run.returncode != 0:
            raise RuntimeError((run.stdout + run.stderr).strip()[:500] or f"load ended with {run.returncode}")
        result = json.loads(run.stdout)
        result["machine"] = Machine(proxy.process.pid).since(before)
        if self.scenario.get("memory"):
            result["figure"] = result["memory"]["per_connection"]
        else:
            result["figure"] = result["cpu_us_per_request"]
        return result

    def report(self, rows):
        table = {peer: self.summary(rows, peer) for peer in self.peers}
        head = f"  {'peer':22} {self.unit:>16} {'× relay':>9} {'× nginx':>9} {'p99 µs':>9} {'rounds':>7} {'steal':>7} {'others':>7}"
        print(head)
        one_route = table.get("sluicegate", {}).get("one_route")
        for peer, row in table.items():
            cells = [f"{row[key]:.2f}" if row[key] is not None else "–" for key in ("median", "relay", "nginx")]
            p99 = f"{row['p99_us']:.0f}" if row["p99_us"] is not None else "–"
            print(f"  {peer:22} {cells[0]:>16} {cells[1]:>9} {cells[2]:>9} {p99:>9} "
                  f"{row['rounds']:>7} {row['steal'] * 100:>6.1f}% {row['others'] * 100:>6.1f}%")
        if one_route is not None:
            print(f"  sluicegate against the one-route table: {one_route:.3f} ×")
        failures = [f"{peer}: {row['results'][peer]['error']}" for row in rows for peer in self.peers
                    if "error" in row["results"][peer]]
        for failure in failures:
            print(f"  FAILED {failure.splitlines()[0]}")
        folder = self.args.out or self.args.binaries.parent / "compare"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}-{time.strftime('%Y%m%dT%H%M%S')}.json"
        path.write_text(json.dumps({
            "scenario": self.name, "about": self.scenario["about"], "command": sys.argv, "unit": self.unit,
            "machine": machine(), "table": table, "rounds": rows,
        }, indent=1))
        print(f"  {path}")

    def summary(self, rows, peer):
        def figures(name):
            return [row["results"].get(name, {}).get("figure") for row in rows]

        def ratio(other):
            pairs = zip(figures(peer), figures(other))
            ratios = [mine / theirs for mine, theirs in pairs if mine is not None and theirs and theirs > 0]
            return statistics.median(ratios) if ratios else None

        good = [row["results"][peer] for row in rows if "figure" in row["results"][peer]]
        return {
            "median": statistics.median(result["figure"] for result in good) if good else None,
            "relay": ratio("relay"), "nginx": ratio("nginx"),
            "one_route": ratio("sluicegate-one-route"),
            "p99_us": statistics.median(result["latency_us"]["p99"] for result in good) if good else None,
            "rounds": f"{len(good)}/{len(rows)}",
            **{key: max((result["machine"][key] for result in good), default=0.0) for key in ("steal", "others")},
        }


class Proxy:
    """One peer with its configuration in a folder of its own, on free ports, pinned to one CPU."""

    def __init__(self, peer, scenario, folder, binaries, cpu):
        self.peer, self.scenario, self.folder, self.binaries, self.cpu = peer, scenario, folder, binaries, cpu
        self.kind, _, self.variant = peer.partition("-")
        self.port, self.admin, self.backend_port = free_port(["127.0.0.1"]), free_port(["127.0.0.1"]), free_port(BACKENDS)
        self.process, self.log = None, folder / "access.log"

    def start(self):
        command = {"relay": self.relay, "nginx": self.nginx, "haproxy": self.haproxy,
                   "sluicegate": self.sluicegate}[self.kind]()
        output = self.log if self.kind == "haproxy" and self.scenario.get("log") else os.devnull
        with open(output, "w") as stdout, open(self.folder / "stderr", "w") as stderr:
            self.process = subprocess.Popen([str(part) for part in command], stdout=stdout, stderr=stderr,
                                            stdin=subprocess.DEVNULL,
                                            preexec_fn=lambda: os.sched_setaffinity(0, {self.cpu}))
        deadline = time.monotonic() + 30
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.peer} did not start: {(self.folder / 'stderr').read_text()[:300]}")
            time.sleep(0.02)
        time.sleep(0.2)

    def is_ready(self):
        try:
            if self.kind != "sluicegate":
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            with socket.create_connection(("127.0.0.1", self.admin), 1) as admin:
                admin.sendall(b"GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
                return admin.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def relay(self):
        command = [self.binaries / "relay", "--listen", f"127.0.0.1:{self.port}"]
        for host in BACKENDS:
            command += ["--upstream", f"{host}:{self.backend_port}"]
        return command + (["--splice"] if self.variant == "splice" else [])

    def nginx(self):
        headers = ['X-Forwarded-For $remote_addr', 'X-Forwarded-Proto $scheme']
        if self.variant != "lean":
            headers += ['X-Forwarded-Host $http_host', 'X-Forwarded-Port $server_port', 'X-Real-IP $remote_addr',
                        'X-Request-ID $request_id']
        streaming = ["proxy_request_buffering off;", "proxy_max_temp_file_size 0;"]
        path = self.fill("nginx.conf", {
            "LOG": f"{self.log} json buffer=64k flush=1s" if self.scenario.get("log") else "off",
            "HEADERS": "\n".join(f"            proxy_set_header {header};" for header in headers),
            "BODIES": "\n".join(f"            {line}" for line in streaming) if self.variant == "stream" else "",
            "SERVERS": "\n".join(f"        server {host}:{self.backend_port} max_fails=0;" for host in BACKENDS),
        })
        return [find("nginx"), "-c", path, "-p", self.folder]

    def haproxy(self):
        headers = ["    option forwardfor", "    http-request set-header X-Forwarded-Proto http"]
        if self.variant != "lean":
            headers += ["    http-request set-header X-Forwarded-Host %[req.hdr(host)]",
                        "    http-request set-header X-Forwarded-Port %[dst_port]",
                        "    http-request set-header X-Real-IP %[src]",
                        "    http-request set-header X-Request-ID %[rand(4294967295),hex]%[rand(4294967295),hex]"]
        log = self.scenario.get("log")
        fields = ('{"time":"%tr","client.addr":"%ci","method":"%HM","path":"%HPO","http.version":"%HV","status":%ST,'
                  '"route":"%ft","backend":"%b","endpoint":"%s","bytes.in":%U,"bytes.out":%B,"duration":%Tt,'
                  '"upstream.head":%Tr,"user_agent":"%[capture.req.hdr(0),json(utf8s)]",'
                  '"referer":"%[capture.req.hdr(1),json(utf8s)]","host":"%[capture.req.hdr(2),json(utf8s)]"}')
        front = ["    log global", f"    log-format '{fields}'", "    capture request header User-Agent len 128",
                 "    capture request header Referer len 128", "    capture request header Host len 128"]
        path = self.fill("haproxy.cfg", {
            "GLOBAL_LOG": "    log stdout format raw local0" if log else "",
            "FRONT_LOG": "\n".join(front) if log else "",
            "HEADERS": "\n".join(headers),
            "SPLICE": "    option splice-auto\n    option splice-response\n    option splice-request"
                      if self.variant == "splice" else "",
            "SERVERS": "\n".join(f"    server s{number} {host}:{self.backend_port} pool-max-conn 256"
                                 for number, host in enumerate(BACKENDS)),
        })
        return [find("haproxy"), "-f", path]

    def fill(self, name, values):
        text = (PEERS / name).read_text()
        for key, value in {**values, "DIR": self.folder, "LISTEN": f"127.0.0.1:{self.port}"}.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.folder / name
        path.write_text(text)
        return path

    def sluicegate(self):
        config = self.folder / "config"
        config.mkdir()
        table = None if self.variant == "one-route" else self.scenario.get("table")
        (config / "bench.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": self.objects(table)}))
        command = [self.binaries / "sluicegate", "run", "--config", config, "--http", f"127.0.0.1:{self.port}",
                   "--admin", f"127.0.0.1:{self.admin}", "--workers", 1]
        if self.scenario.get("log"):
            return command + ["--access-log", "json", "--access-log-file", self.log]
        return command + ["--access-log", "off"]

    def objects(self, table):
        backend = {"service": {"name": "bench", "port": {"number": 80}}}

        def ingress(name, host, paths):
            rule = {"http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend} for path in paths]}}
            return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                    "metadata": {"name": name, "namespace": "bench"},
                    "spec": {"rules": [{"host": host, **rule} if host else rule]}}

        objects = [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bench", "namespace": "bench"},
             "spec": {"ports": [{"port": 80, "targetPort": self.backend_port}]}},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
             "metadata": {"name": "bench-1", "namespace": "bench",
                          "labels": {"kubernetes.io/service-name": "bench"}},
             "ports": [{"port": self.backend_port, "protocol": "TCP"}],
             "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in BACKENDS]},
        ]
        if table == "hosts":
            return objects + [ingress(f"h{i}", f"h{i}.bench.test", ["/"]) for i in range(10_000)]
        if table == "paths":
            return objects + [ingress("paths", "bench.test", [f"/p{i}" for i in range(10_000)])]
        return objects + [ingress("bench", None, ["/"])]


class Machine:
    """CPU time of the whole machine, of one process family, and of this script's ended children, in seconds."""

    def __init__(self, pid):
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        self.total, self.idle, self.stolen = sum(fields[:8]), fields[3] + fields[4], fields[7]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.ours = used.ru_utime + used.ru_stime + sum(map(cpu_seconds, family(pid)))

    def since(self, before):
        """Shares of all CPUs' time: stolen by the host, and used by anything but the proxy and its load."""
        total = max(1, self.total - before.total)
        busy = total - (self.idle - before.idle) - (self.stolen - before.stolen)
        ours = (self.ours - before.ours) * os.sysconf("SC_CLK_TCK")
        return {"steal": (self.stolen - before.stolen) / total, "others": max(0.0, (busy - ours) / total)}


def family(pid):
    pids = [pid]
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += map(int, task.read_text().split())
    return pids


def cpu_seconds(pid):
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def machine():
    def first(command):
        try:
            run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            return (run.stdout or run.stderr).splitlines()[0]
        except (OSError, IndexError):
            return None

    sysctls = ["net/ipv4/tcp_congestion_control", "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem", "net/core/somaxconn",
               "net/ipv4/ip_local_port_range", "net/ipv4/tcp_tw_reuse"]
    model = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    return {
        "commit": first(["git", "rev-parse", "HEAD"]), "dirty": bool(first(["git", "status", "--porcelain"])),
        "kernel": platform.release(), "cpu": model[:1], "cpus": os.cpu_count(), "load": os.getloadavg(),
        "nginx": first([find("nginx"), "-v"]) if find("nginx") else None,
        "haproxy": first([find("haproxy"), "-v"]) if find("haproxy") else None,
        "sysctls": {name: (Path("/proc/sys") / name).read_text().strip() for name in sysctls},
    }


def find(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def free_port(hosts):
    """A port free on all of `hosts`, below the ephemeral range so that no client takes it in between."""
    for _ in range(200):
        port = random.randrange(15_000, 30_000)
        try:
            for host in hosts:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((host, port))
            return port
        except OSError:
            continue
    raise RuntimeError("no free port")


if __name__ == "__main__":
    main()
