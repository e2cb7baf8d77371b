"""How long does a large table take? All laws, all intervals, comparison, tests and verdicts of about 10,000 rows.

    python benchmarks/laws.py [--methods 12] [--seeds 4] [--draws 2000]

Target: under a minute of process time on one core, with 2,000 bootstrap draws.
"""

import argparse
import time

from claw import laws
from claw.laws import simulate
from claw.laws.simulate import Design


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--draws", type=int, default=2000)
    chosen = parser.parse_args()
    methods = [f"method-{i}" for i in range(chosen.methods)]
    table = simulate.simulated_table(Design(methods=methods, tokens=(0, 1e6, 1e7), seeds=chosen.seeds), simulate.TRUTHS)
    started, worked = time.perf_counter(), time.process_time()
    fitted = laws.fit(table, draws=chosen.draws)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    print(
        f"{len(table)} rows, {len(fitted.curves)} laws of curves, {len(fitted.pooled)} laws across models, "
        f"{len(fitted.comparisons)} comparisons, {chosen.draws} draws: {seconds:.1f} s ({work:.1f} s of processor)"
    )
    started = time.perf_counter()
    written = fitted.to_json()
    print(f"laws.json: {len(written) / 1e6:.1f} MB in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
