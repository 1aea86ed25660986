"""How fast the solution is beside the usual ways: python tests/long/benchmark.py, up to ten minutes on two cores.

Prints the machine, one table in Markdown and four rows that show how the cost of training grows. What is compared is
measured in turns, three times or more, and the median counts; nothing else should run meanwhile.
"""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import task1
import task3
from common.data import Vectors, convert_mnist_to_vectors, load_data
from common.pca import do_pca
from common.runtime import ROOT, choose_device

THREADS = torch.get_num_threads()  # PyTorch's own choice
TASKS = ("task1", "task2", "task3", "task4")
FIRST_PCA = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from common.data import convert_mnist_to_vectors, load_data
from common.pca import do_pca
vectors = convert_mnist_to_vectors(load_data()).vectors
if "scikit-learn" in sys.argv:
    from sklearn.decomposition import PCA
    do_pca = PCA(svd_solver="covariance_eigh").fit
start = time.perf_counter()
do_pca(vectors)
print(time.perf_counter() - start)
"""
SECOND_COPY = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import benchmark; benchmark.train_for_ever()"
)
SCRIPT = """
import subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - start
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
except ImportError:  # Windows
    peak = "nan"
print(seconds, peak)
"""


def timed(work):
    """Return the seconds that the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(*subjects, measure=timed, rounds=3, choose=np.median):
    """Measure the subjects in turns; return the median of each."""
    return choose([[measure(subject) for subject in subjects] for _ in range(rounds)], axis=0)


def run_python(code, *arguments):
    """Run code in a fresh process; return the numbers that it prints."""
    output = subprocess.check_output([sys.executable, "-c", code, *map(str, arguments)], text=True)
    return [float(number) for number in output.split()]


def show(value):
    """Return a number of seconds for people."""
    return f"{value:.2f} s" if value >= 1e-2 else f"{value * 1e6:.0f} µs"


def compare(label, ours, name, reference, show=show):
    """Return a row: what it takes here and elsewhere, and the ratio."""
    return label, show(ours), f"{name} {show(reference)}", f"{ours / reference:.3g}"


class StarterDataset(Dataset):
    """The data set of the usual starter code: it makes a tensor of an image when it is asked for it."""

    def __init__(self, data):
        self.images, self.labels = data

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.tensor(self.images[index], dtype=torch.float32).flatten() / 127.5 - 1, int(self.labels[index])


def starter_epoch(train, test):
    """One epoch of the usual starter loop, validation included, on PyTorch's own number of threads."""
    torch.set_num_threads(THREADS)
    device = choose_device()
    model = task3.MultilayerPerceptron().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=task3.LEARNING_RATE)
    criterion = nn.CrossEntropyLoss()
    train_loss = test_loss = correct = 0.0
    for image, label in DataLoader(StarterDataset(train), task3.BATCH_SIZE, shuffle=True):
        image, label = image.to(device), label.to(device)
        optimizer.zero_grad()
        loss = criterion(model(image), label)
        loss.backward()
        optimizer.step()
        train_loss += loss.item()
    with torch.no_grad():
        for image, label in DataLoader(StarterDataset(test), task3.BATCH_SIZE):
            image, label = image.to(device), label.to(device)
            prediction = model(image)
            test_loss += criterion(prediction, label).item()
            correct += (prediction.argmax(1) == label).sum().item()


def load_splits():
    """Read the train and the test split."""
    return load_data(train=True), load_data(train=False)


def training(vectors, images=6000, tests=100, batch_size=task3.BATCH_SIZE, epochs=1, size_hidden=100):
    """Train a new network of task 3 on the first images of both splits; few tests, so that training is what counts."""
    data = [Vectors(*(array[:n] for array in split)) for split, n in zip(vectors, (images, tests), strict=True)]
    model = task3.MultilayerPerceptron(size_hidden).to(choose_device())
    torch.set_num_threads(1)  # as task3.py does
    task3.train(model, *data, epochs, batch_size)


def epoch_row(splits, vectors):
    """One epoch of task 3 at batch 16, validation on the full test split included, against the starter loop."""
    seconds = alternate(lambda: training(vectors, 60_000, 10_000), lambda: starter_epoch(*splits))
    yield compare("epoch of task 3", seconds[0], "starter loop", seconds[1])


def step_row(steps=2000):
    """A training step of task 1's network on 32 points, against eager PyTorch in float32 on one thread."""
    data = task1.moons()
    x, y = data.x_train[: task1.BATCH_SIZE], data.y_train[: task1.BATCH_SIZE]
    mlp = task1.MLP()
    model = nn.Sequential(nn.Linear(2, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=task1.LEARNING_RATE)
    criterion = nn.CrossEntropyLoss()
    points, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)

    def by_hand():
        for _ in range(steps):
            mlp.training_step(x, y, task1.LEARNING_RATE)

    def eager():
        for _ in range(steps):
            optimizer.zero_grad()
            loss = criterion(model(points), labels)
            loss.backward()
            optimizer.step()
            loss.item()

    torch.set_num_threads(1)
    ours, theirs = alternate(by_hand, eager, rounds=5) / steps
    yield compare("training step of task 1", ours, "eager PyTorch", theirs)


def pca_rows(vectors):
    """PCA of 60,000 × 784 against scikit-learn: best of fifteen, first call of a process, error of the eigenvalues.

    The error is the largest difference from eigenvalues computed in float64 throughout, relative to the largest.
    """
    torch.set_num_threads(THREADS)
    theirs = PCA(svd_solver="covariance_eigh")
    best = alternate(lambda: do_pca(vectors), lambda: theirs.fit(vectors), rounds=15, choose=np.min)
    yield compare("PCA, best of fifteen", best[0], "scikit-learn", best[1])
    first = alternate("ours", "scikit-learn", measure=lambda name: run_python(FIRST_PCA, name)[0])
    yield compare("PCA, first call of a process", first[0], "scikit-learn", first[1])
    exact = np.linalg.eigvalsh(np.cov(vectors.astype(np.float64), rowvar=False))[::-1]
    found = do_pca(vectors).eigenvalues, theirs.explained_variance_
    error = [np.abs(eigenvalues - exact).max() / exact[0] for eigenvalues in found]
    yield compare("PCA, eigenvalue error", error[0], "scikit-learn", error[1], "{:.0e}".format)


def copies_row(vectors):
    """Training of task 3 on 20,000 images while a second process trains as well, against the same alone."""

    def alone():
        return timed(lambda: training(vectors, images=20_000))

    def beside():
        with subprocess.Popen([sys.executable, "-c", SECOND_COPY], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout.readline(), "the second copy did not train"
                return alone()
            finally:
                process.kill()

    seconds = alternate(beside, alone, measure=lambda train: train())
    yield compare("training of task 3, two at once", seconds[0], "alone", seconds[1])


def train_for_ever():
    """Train until the process is killed, with a line after every training."""
    vectors = [convert_mnist_to_vectors(split) for split in load_splits()]
    while True:
        training(vectors, images=2000)
        print(flush=True)


def script_rows():
    """Reading both splits; --help of every script; complete runs, with the peak memory of their largest process.

    A small process stands between, since a process starts from the peak of the one that forks it.
    """
    (reading,) = alternate(load_splits)
    yield "reading MNIST", show(reading)
    runs = alternate(*TASKS, measure=lambda task: run_python(SCRIPT, ROOT / f"{task}.py", "--help"))
    for task, (seconds, _) in zip(TASKS, runs, strict=True):
        yield f"{task}.py --help", show(seconds)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = "--checkpoint", Path(folder, "mlp.pt")
        flags = {"task3": checkpoint, "task4": checkpoint}
        command = {task: (ROOT / f"{task}.py", "--figures", folder, *flags.get(task, ())) for task in TASKS}
        command["task1 --no-studies"] = (*command["task1"], "--no-studies")
        runs = alternate(*command, measure=lambda name: run_python(SCRIPT, *command[name]))
    for name, (seconds, memory) in zip(command, runs, strict=True):
        script, *words = name.split()
        yield " ".join((f"{script}.py", *words)), f"{seconds:.1f} s, {memory:.0f} MB"


def curve_rows(vectors):
    """How the seconds of training grow with each setting, the others as in task 3 but for the number of images."""

    def row(label, name, values, **others):
        seconds = alternate(*values, measure=lambda value: timed(lambda: training(vectors, **others, **{name: value})))
        return label, *(f"{value:,}: {second:.3g}" for value, second in zip(values, seconds, strict=True))

    yield row("batch size, 6,000 images", "batch_size", (1, 4, 16, 64, 256, 1024))
    yield row("epochs, 6,000 images", "epochs", (1, 2, 4, 8))
    yield row("width, 2,000 images", "size_hidden", (100, 200, 400, 800, 1600), images=2000)
    yield row("images", "images", (1000, 3000, 10_000, 30_000, 60_000))


def machine():
    """Return what the numbers were measured on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, {versions}"


def print_table(header, rows):
    """Print a table in Markdown, each row as soon as it is measured; short ones are filled up."""
    for row in chain([header, ["---"] * len(header)], rows):
        print("|", " | ".join(row), "| " * (len(header) - len(row)) + "|", flush=True)


def main():
    """Measure everything."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=formatter).parse_args()
    sys.stdout.reconfigure(encoding="utf-8")
    os.environ.pop("MNIST_DIR", None)
    splits = load_splits()
    vectors = [convert_mnist_to_vectors(split) for split in splits]
    print(machine(), end="\n\n")
    rows = epoch_row(splits, vectors), step_row(), pca_rows(vectors[0].vectors), copies_row(vectors), script_rows()
    print_table(("", "here", "reference", "ratio"), chain(*rows))
    print()
    print_table(("seconds of training by", *[""] * 6), curve_rows(vectors))


if __name__ == "__main__":
    main()
