"""What the four task scripts share, and what goes beyond the sheet.

Shared:     data        the moons, and MNIST as arrays and as vectors
            pca         principal components and projection (2.3, 2.4, 4.2)
            plotting    one style and palette; what two scripts draw
            separation  how well classes separate (2.4, 3.3, 4.3)
            script      flags, devices, complete files, one line for every error
Task 1:     gradients   central differences (1.1)
            studies     the other networks of 1.4, their summary and figure
Task 3:     cuda        a training step that CUDA records once and replays (3.3)
Beyond it:  explorer    the page on which task 4's layers are explored in a browser
            submission  python -m common.submission: run the tasks, typeset the answers
"""

import os
import sys

# A notebook or IDE hands its own backend down to the scripts that it starts, where
# matplotlib may even fail to import, as it does by the old names of Qt.
UNUSABLE = ("module:", "inline", "widget", "qt4")
backend = os.environ.get("MPLBACKEND", "").lower()
if "IPython" not in sys.modules and backend.startswith(UNUSABLE):
    del os.environ["MPLBACKEND"]
