"""What the four task scripts share, and what goes beyond the sheet.

Shared:     data           the moons, and MNIST as arrays and as vectors
            pca            principal components and projection (2.3, 2.4, 4.2)
            plotting       one style and palette; what two scripts draw
            separation     how well classes separate: nearest neighbours, confused pairs (2.4, 3.3, 4.3)
            script         flags, devices, complete files, one line for every error, argument checks
Task 1:     gradients      central differences (1.1)
            normalization  batch and layer normalization by hand (5)
            studies        the table of experiments of 1.4 and 5, their summaries and figures
Beyond it:  explorer       the page on which task 4's layers are explored in a browser
            submission     python -m common.submission: run the four tasks and typeset the answers
"""

import os
import sys

# A notebook or IDE hands its own backend down to the scripts that it starts, where
# matplotlib may even fail to import.
if "IPython" not in sys.modules and os.environ.get("MPLBACKEND", "").startswith(
    ("module:", "inline", "widget")
):
    del os.environ["MPLBACKEND"]
