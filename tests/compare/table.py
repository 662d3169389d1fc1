"""Prints what was measured side by side."""

import json
import os
import sys

folder = sys.argv[1]
read = lambda name: json.load(open(os.path.join(folder, f"{name}.json")))
ours = read("wasmjob")
rows = {"wasmjob": {"jobs_per_s": ours["noop"]["jobs_per_s"], **ours["single"]}, **{peer: read(peer) for peer in ("celery", "celery-safe", "ray")}}
print(f"{'':<12}{'jobs/s':>9}{'wasmjob is':>13}{'one job p50':>13}{'p99':>9}{'wasmjob needs':>15}")
for name, row in rows.items():
    faster = f"{rows['wasmjob']['jobs_per_s'] / row['jobs_per_s']:.1f} x"
    needs = f"{rows['wasmjob']['p50_us'] / row['p50_us']:.2f} x"
    print(f"{name:<12}{row['jobs_per_s']:>9.0f}{faster:>13}{row['p50_us'] / 1e3:>10.2f} ms{row['p99_us'] / 1e3:>6.2f} ms{needs:>15}")
print(f"floor       {ours['noop']['floor_per_s']:>9.0f}   ratio {ours['noop']['ratio']:.2f}")
