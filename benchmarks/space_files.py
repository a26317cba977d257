"""Is every search-space file either a space or one line that says what is wrong? Ten thousand generated ones.

    python benchmarks/space_files.py --examples 10000

Nine in ten are contents, as YAML would give them, one in ten is a file of text with letters changed. The regular tests
try a tenth of them, always the same; here --seed draws others. Ends with an error, and the smallest file that shows it,
at the first traceback, or message of more than one line.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from sweeps.provenance import provenance
from tests.sweeps.generated_spaces import check_content, check_text, contents, texts


def try_all(strategy: SearchStrategy[Any], check: Callable[[Any], bool], count: int, first: int) -> Counter[bool]:
    """How many were spaces, and how many were refused."""
    outcomes: Counter[bool] = Counter()

    @seed(first)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def every_file_is_a_space_or_a_line(file: Any) -> None:
        outcomes[check(file)] += 1

    every_file_is_a_space_or_a_line()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    num_texts, total = options.examples // 10, Counter[bool]()
    kinds = (
        ("contents", contents(), check_content, options.examples - num_texts),
        ("texts", texts(), check_text, num_texts),
    )
    for name, strategy, check, count in kinds:
        started = time.process_time()
        outcomes = try_all(strategy, check, count, options.seed)
        seconds = time.process_time() - started
        total += outcomes
        each = f"{1000 * seconds / max(1, outcomes.total()):.1f} ms each"
        print(
            f"{name:<9} {outcomes.total():>6}: {outcomes[True]} spaces, {outcomes[False]} refused in one line; {each}"
        )
    made_with = provenance("laptop", "benchmark")
    print(f"{total.total()} files, no traceback; commit {made_with['commit'][:12]}, dirty: {made_with['dirty']}")


if __name__ == "__main__":
    main()
