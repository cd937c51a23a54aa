#!/usr/bin/env python3
"""Turns what `run` measured into the Markdown table that the README quotes. usage: table.py SAMPLES EXTRA PROGRAMS"""
import datetime, json, os, platform, re, statistics, subprocess, sys

samples_file, extra_file, programs = sys.argv[1:4]
samples = [json.loads(line) for line in open(samples_file)]
# A second run of ours, with every connection in a tunnel of its own.
alone = [s["kib_per_conn"] for s in samples if s["mode"] == "alone" and "kib_per_conn" in s]
samples = [s for s in samples if s["mode"] != "alone"]
extra = open(extra_file).read()
modes = [m for m in ("plain", "haproxy", "nginx", "signet") if any(s["mode"] == m for s in samples)]


def median(test, mode, key):
    values = [s[key] for s in samples if s["test"] == test and s["mode"] == mode and key in s]
    return statistics.median(values) if values else None


def show(value, form="{:.2f}"):
    return "–" if value is None else form.format(value)


def best(test, key, smallest=False):
    others = [v for m in ("haproxy", "nginx") if (v := median(test, m, key)) is not None]
    return (min(others) if smallest else max(others)) if others else None


def ratio(test, key, smallest=False, against=None):
    ours = median(test, "signet", key)
    theirs = median(test, against, key) if against else best(test, key, smallest)
    return f"{ours / theirs:.2f}" if ours is not None and theirs else "–"


def command(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


ROWS = [  # what, test, key, format, smallest is best, against, goal
    ("bulk, 1 stream, Gbit/s", "bulk_1", "gbit_s", "{:.2f}", False, None, "1.3"),
    ("bulk, 8 streams, Gbit/s", "bulk_8", "gbit_s", "{:.2f}", False, None, "1.2"),
    ("bulk back, 1 stream, Gbit/s", "bulk_1_rev", "gbit_s", "{:.2f}", False, None, ""),
    ("CPU s for a GiB, both proxies, 1 stream", "bulk_1", "cpu_s_per_gib", "{:.2f}", True, "haproxy", "0.75"),
    ("CPU s for a GiB, both proxies, 8 streams", "bulk_8", "cpu_s_per_gib", "{:.2f}", True, "haproxy", "0.75"),
    ("requests/s, 1 keep-alive connection", "http_c1", "rps", "{:.0f}", False, None, ""),
    ("requests/s, 16 connections", "http_c16", "rps", "{:.0f}", False, None, "1.6"),
    ("p99 ms, 16 connections", "http_c16", "p99_ms", "{:.2f}", True, None, "1"),
    ("requests/s, 64 connections", "http_c64", "rps", "{:.0f}", False, None, "2"),
    ("p99 ms, 64 connections", "http_c64", "p99_ms", "{:.2f}", True, None, "1"),
    ("new connections/s, one after the other", "newconn_c1", "conn_s", "{:.0f}", False, None, "5"),
    ("new connections/s, 16 at once", "newconn_c16", "conn_s", "{:.0f}", False, None, "8"),
    ("resident MB, idle", "mem", "idle_mb", "{:.1f}", True, None, "6 MB"),
    ("KiB for an idle connection, each side", "mem", "kib_per_conn", "{:.1f}", True, None, "4"),
]
cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
busy = [s["busy_before"] for s in samples if "busy_before" in s]
steal = [s["steal"] for s in samples if "steal" in s]
rounds = len({s["round"] for s in samples})
version = lambda text: next(iter(re.findall(r"\d+(?:\.\d+)+", text)), "?")
print("# Measured side by side, in one run\n")
print(f"{datetime.date.today()}, {os.cpu_count()} processors ({cpu}), Linux {platform.release().split('-')[0]}; median of {rounds} rounds. All on one machine: "
      "client, server and both proxies share its processors. HAProxy " + version(command("haproxy", "-v")) + " and nginx " +
      version(subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr) +
      " are explicit mutual-TLS hops on both sides with one worker each, without resumption; Signet intercepts, checks identities and a rule. "
      f"The machine was {statistics.median(busy) if busy else 0:.0f} % busy before the median test (worst {max(busy, default=0)} %), "
      f"and had {max(steal, default=0)} % of its time stolen at worst.\n")
print("| work | " + " | ".join({"plain": "no mesh", "haproxy": "HAProxy", "nginx": "nginx", "signet": "Signet"}[m] for m in modes) + " | ratio | goal |")
print("|---|" + "---|" * (len(modes) + 2))
for what, test, key, form, smallest, against, goal in ROWS:
    print(f"| {what} | " + " | ".join(show(median(test, m, key), form) for m in modes) + f" | {ratio(test, key, smallest, against)} | {goal} |")
if alone:
    theirs = best("mem", "kib_per_conn", smallest=True)
    others = "".join(f" {show(median('mem', m, 'kib_per_conn') if m != 'signet' else alone[0], '{:.1f}')} |" for m in modes)
    print(f"| the same, each in a tunnel of its own |{others} {show(alone[0] / theirs if theirs else None)} | 8 |")
print("\nThe ratio is Signet to the better of HAProxy and nginx (CPU: to HAProxy).\n")
errors = [s for s in samples if "error" in s or s.get("failed") or s.get("errs")]
for s in errors:
    print(f"- {s['mode']}, {s['test']}: {s.get('error') or 'failed requests: ' + str(s.get('failed') or s.get('errs'))}")
print("| alone | measured | goal |\n|---|---|---|")
for rules in ("10", "100000"):
    found = dict(re.findall(rf"verdict rules={rules} callers=spread case=(\S+) ns=(\d+)", extra))
    if found:
        print(f"| verdict at {int(rules):,} rules | " + ", ".join(f"{k} {v} ns" for k, v in found.items()) + " | 200 ns |")
for key, what, goal in (("start_ms", "start to first proxied byte, local CA, ms", "15"), ("certificates_s", "certificates a second over gRPC", "5,000")):
    for value in re.findall(rf"^{key}=(\S+)", extra, re.M):
        print(f"| {what} | {value} | {goal} |")
for key, what, goal in (
    ("scale_start_s", "operator's start until its index is built, s", ""),
    ("scale_attach_s", "all attach at once, s", "10"),
    ("scale_rule_p99_ms", "changed rule to enforcement, p99 ms", "1,000"),
    ("scale_reconnect_s", "all are cut and served again, s", "10"),
    ("scale_memory_mb", "operator's resident MB, the most ever", "1,000"),
):
    for value, note in re.findall(rf"^{key}=(\S+)(?: \((.*)\))?", extra, re.M):
        print(f"| 10,000 pods, 1,000 Services, 1,000 rules: {what} | {value}{' (' + note + ')' if note else ''} | {goal} |")
for name in ("signet-sidecar", "signet-ca", "signet-operator", "signet"):
    path = os.path.join(programs, name)
    if os.path.exists(path):
        print(f"| {name}, static, MB | {os.path.getsize(path) / 1e6:.1f} | {'8' if name == 'signet-sidecar' else ''} |")
