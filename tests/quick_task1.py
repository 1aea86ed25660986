"""Task 1 from the command line, with studies of a second instead of twenty: the same code, files and processes."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import studies

studies.SEEDS, studies.DEPTHS, studies.UNSTABLE_DEPTHS, studies.DEEPEST = 1, (0, 4), (2,), 4
studies.REGIMES["sheet"]["points"], studies.REGIMES["scarce"]["epochs"] = 500, 3
sys.argv[0] = str(Path(sys.path[0], "task1.py"))
runpy.run_path(sys.argv[0], run_name="__main__")
