"""Simulates our scheduler and the policies of other servers on the same jobs, and prints a table for each trace.

    python scripts/simulate.py                               all traces, about ten seconds on one core
    python scripts/simulate.py --jobs 400 --trace steady     a smaller one

The last two lines give the median error of the scheduler's time estimates.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parent.parent))  # the script runs from a checkout that is not installed

from scripts.simulation.baselines import BASELINES
from scripts.simulation.eta_errors import eta_errors, mixed_jobs, small_jobs
from scripts.simulation.outcome import Outcome, by_key, fair_shares
from scripts.simulation.simulator import Simulator
from scripts.simulation.traces import TRACES, Trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of each trace (default: 2000)")
    parser.add_argument("--trace", choices=list(TRACES), action="append", help="repeatable (default: all traces)")
    args = parser.parse_args()
    for name in args.trace or TRACES:
        report(TRACES[name](args.jobs))
    print()
    for what, at_once, half_way, n in (
        ("mixed", *eta_errors(mixed_jobs(200))),
        ("small", *eta_errors(small_jobs(200), every_s=0.25)),
    ):
        print(f"estimates of {n} {what} jobs: median error {at_once:.0%} at submission, {half_way:.0%} half way")


def report(trace: Trace) -> None:
    print(f"\n{trace.name}: {len(trace.jobs)} jobs, {len(trace.models)} models, {trace.capacity_bytes / 1e9:.0f} GB")
    print(
        f"{'policy':8}{'makespan':>10}{'busy':>7}{'loads':>7}{'swaps':>7}"
        f"{'evicted':>8}{'missed':>8}{'chat p95':>10}{'worst key':>11}"
    )
    fair = by_key(trace, fair_shares(trace))
    outcomes = [Simulator(trace).run(), *(baseline(trace) for baseline in BASELINES)]
    for outcome in outcomes:
        print_row(trace, outcome, fair)
    ours = outcomes[0]
    print(f"makespan of the best baseline × {ours.makespan_s / min(o.makespan_s for o in outcomes[1:]):.2f}, ", end="")
    print(f"loads of FIFO × {ours.loads / outcomes[1].loads:.2f}, ", end="")
    print(f"{len(ours.decision_s)} decisions of {mean(ours.decision_s) * 1e6:.0f} µs")
    print("waits by key (fair share): ", end="")
    print(", ".join(f"{key} {wait:.0f} s ({fair[key]:.0f})" for key, wait in ours.waits(trace).items()))


def print_row(trace: Trace, outcome: Outcome, fair: dict[str, float]) -> None:
    worst = max(wait / fair[key] for key, wait in outcome.waits(trace).items())
    print(
        f"{outcome.policy:8}{outcome.makespan_s:>8.0f} s{outcome.utilisation:>7.0%}{outcome.loads:>7}"
        f"{outcome.swaps(trace):>7}{outcome.evictions:>8}{outcome.missed(trace):>8}"
        f"{outcome.p95_wait_s(trace, 'chat'):>8.1f} s{worst:>9.2f} ×"
    )


if __name__ == "__main__":
    main()
