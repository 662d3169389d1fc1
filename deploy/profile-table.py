"""Prints the report of a `profile` job (JSON on stdin) as a table, and what the run cost."""

import json
import sys

STATISTICS = ["count", "mean", "std", "min", "p25", "p50", "p75", "max"]


def main():
    report = json.load(sys.stdin)
    profile = json.loads(report["output"]["text"])
    rows = [["column", *STATISTICS]]
    for column in profile["columns"]:
        rows.append([column["name"], *(number(column.get(name)) for name in STATISTICS)])
    print(f"\n{profile['rows']} rows")
    print_aligned(rows)
    print(f"\ncost: {cost(report['usage'])}")


def number(value):
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}"


def print_aligned(rows):
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    for name, *cells in rows:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:]))
        print(f"{name.ljust(widths[0])}  {numbers}")


def cost(usage):
    fuel = f"{usage['fuel']:,} fuel"
    memory = f"{usage['memory_bytes_peak'] / 2**20:.1f} MiB of memory at most"
    return f"{fuel}, {memory}, {usage['wall_ms']} ms"


main()
