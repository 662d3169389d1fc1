"""Prints what was measured side by side: the medians of all turns."""

import json
import os
import statistics
import sys

PEERS = ("celery", "celery-safe", "ray")
folder, turns = sys.argv[1], int(sys.argv[2])


def read(name):
    for turn in range(1, turns + 1):
        with open(os.path.join(folder, f"{name}-{turn}.json")) as measured:
            yield json.load(measured)


def medians(rows):
    rows = list(rows)
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


ours = list(read("wasmjob"))
rows = {"wasmjob": medians({**turn["single"], **turn["noop"]} for turn in ours), **{peer: medians(read(peer)) for peer in PEERS}}
best = rows["wasmjob"]
print(f"{'':<12}{'jobs/s':>9}{'wasmjob is':>13}{'one job p50':>13}{'p99':>9}{'wasmjob needs':>15}")
for name, row in rows.items():
    faster = f"{best['jobs_per_s'] / row['jobs_per_s']:.1f} x"
    needs = f"{best['p50_us'] / row['p50_us']:.2f} x"
    print(f"{name:<12}{row['jobs_per_s']:>9.0f}{faster:>13}{row['p50_us'] / 1e3:>10.2f} ms{row['p99_us'] / 1e3:>6.2f} ms{needs:>15}")
print(f"floor       {best['floor_per_s']:>9.0f}   ratio {best['ratio']:.2f}")
