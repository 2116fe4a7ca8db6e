"""What starting a job costs at each level of the jail, from the warm parent to the report; 30 rows, popularity.

python benchmarks/jail.py [JOBS]
"""

import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "institution"))
from small_site import START, make_site, recipe

from fedrec.exchange.wire import encode
from fedrec.institution.jail import Jail, JailLimits


def main(jobs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder))
        base = Path(folder) / "base"
        base.write_bytes(encode(START))
        spec = {"plan": recipe("popularity").text(), "kind": "train", "protocol": "p1"}
        for level in (1, 2, 3):
            began = time.monotonic()
            jail = Jail(level)
            jail.wait_ready()
            warm, took = time.monotonic() - began, []
            for number in range(jobs):
                with ExitStack() as stack:
                    files = {"rows": site.store.rows_path.open("rb"), "base": base.open("rb")}
                    files |= {name: (Path(folder) / name).open("w+b") for name in ("update", "state", "log")}
                    for file in files.values():
                        stack.enter_context(file)
                    descriptors = {name: file.fileno() for name, file in files.items()}
                    began = time.monotonic()
                    jail.run(str(number), spec, descriptors, JailLimits(9, 10**9, 10**8))
                    took.append(1000 * (time.monotonic() - began))
            jail.close()
            took.sort()
            print(
                f"level {level}: median {statistics.median(took):.0f} ms, 95 % {took[int(0.95 * (jobs - 1))]:.0f} ms "
                f"of {jobs} jobs; the warm parent started in {warm:.1f} s"
            )
        site.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
