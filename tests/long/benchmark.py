"""How fast the solution is, compared with the usual ways, on a machine on which nothing
else runs.

python tests/long/benchmark.py step epoch cuda pca page: measures what is named; all of
it takes five minutes. What is compared is measured in turns; medians count. `page`
needs task 4's page in figures/, Selenium and Chromium.
"""

import argparse
import os
import platform
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader
from tqdm import trange

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import task1
import task3
from common.data import convert_mnist_to_vectors, load_data, moons
from common.pca import do_pca
from common.script import FIGURES

THREADS = torch.get_num_threads()  # PyTorch's own choice


def compare(label, ours, name, theirs, rounds, repeats=1):
    """Print the median time of both, measured in turns, and the median and the range of
    the ratios.
    """
    seconds = np.empty((rounds, 2))
    for pair in trange(rounds, desc=label, leave=False, disable=None):
        for column, work in enumerate((ours, theirs)):
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            seconds[pair, column] = (time.perf_counter() - start) / repeats
    here, there = (
        f"{1e6 * each:.0f} µs" if each < 1e-2 else f"{each:.3g} s"
        for each in np.median(seconds, axis=0)
    )
    low, ratio, high = np.quantile(seconds[:, 0] / seconds[:, 1], (0, 0.5, 1))
    print(
        f"{label} {here}, {name} {there}: ratio {ratio:.3f} ({low:.3f} to {high:.3f} in {rounds} pairs)",
        flush=True,
    )


def train_eagerly(model, optimizer, x, y):
    """Take a training step as it is usually written in PyTorch; return the loss."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def step():
    """Compare a training step of task 1 with eager PyTorch in float32 on one thread."""
    torch.set_num_threads(1)
    mlp, (x, y) = task1.MLP(), (array[: task1.BATCH_SIZE] for array in moons()[:2])
    twins = [
        nn.Linear(*each.weight.shape[::-1]) if hasattr(each, "weight") else nn.ReLU()
        for each in mlp.layers[:-1]
    ]
    model, rate = nn.Sequential(*twins), task1.LEARNING_RATE
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    eager = partial(
        train_eagerly,
        model,
        optimizer,
        torch.tensor(x, dtype=torch.float32),
        torch.tensor(y),
    )
    compare(
        "training step of task 1",
        partial(mlp.training_step, x, y, rate),
        "eager PyTorch",
        eager,
        15,
        repeats=2000,
    )


class StarterDataset:
    """The data set of the usual starter code: it makes a tensor of an image when it is
    asked for it.
    """

    def __init__(self, data):
        self.images, self.labels = data

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.tensor(
            self.images[index], dtype=torch.float32
        ).flatten() / 127.5 - 1, int(self.labels[index])


def starter_epoch(splits, device):
    """Train and validate a network for an epoch with the starter's loop."""
    model = task3.MultilayerPerceptron().to(device)
    optimizer = task3.OPTIMIZER(model.parameters(), lr=task3.LEARNING_RATE)
    for images, labels in DataLoader(
        StarterDataset(splits[0]), task3.BATCH_SIZE, shuffle=True
    ):
        train_eagerly(model, optimizer, images.to(device), labels.to(device))
    with torch.no_grad():
        for images, labels in DataLoader(StarterDataset(splits[1]), task3.BATCH_SIZE):
            logits, labels = model(images.to(device)), labels.to(device)
            (
                nn.functional.cross_entropy(logits, labels).item(),
                (logits.argmax(1) == labels).sum().item(),
            )


def epoch():
    """Compare an epoch of task 3, validation included, with the starter's loop on
    PyTorch's own number of threads.
    """
    splits = [load_data(train=split) for split in (True, False)]
    vectors = [convert_mnist_to_vectors(split) for split in splits]

    def ours():
        torch.set_num_threads(1)  # as task3.py does
        task3.train(task3.MultilayerPerceptron(), *vectors, epochs=1)

    def starter():
        torch.set_num_threads(THREADS)
        starter_epoch(splits, "cpu")

    compare("epoch of task 3", ours, "starter loop", starter, rounds=3)


def cuda(epochs=4):
    """Print the seconds of an epoch on the GPU, recorded, eager and with the starter's
    loop, and on the CPU.
    """
    splits = [load_data(train=split) for split in (True, False)]
    vectors, recorded = (
        [convert_mnist_to_vectors(split) for split in splits],
        task3.recorded,
    )

    def seconds_of_an_epoch(device):
        model = task3.MultilayerPerceptron().to(device)
        return np.median(task3.train(model, *vectors, epochs=epochs)["seconds"])

    results = {"recorded": seconds_of_an_epoch("cuda")}
    task3.recorded = lambda step: step
    results["eager"] = seconds_of_an_epoch("cuda")
    task3.recorded = recorded
    start = time.perf_counter()
    starter_epoch(splits, "cuda")
    results["starter loop"] = time.perf_counter() - start
    torch.set_num_threads(1)
    results["this machine's CPU"] = seconds_of_an_epoch("cpu")
    for name, seconds in results.items():
        print(
            f"{name}: {seconds:.3f} s an epoch, {seconds / results['recorded']:.1f} times"
        )


def pca():
    """Compare do_pca of the train split with scikit-learn's quickest exact solver."""
    torch.set_num_threads(THREADS)
    vectors, theirs = (
        convert_mnist_to_vectors(load_data()).vectors,
        PCA(svd_solver="covariance_eigh"),
    )
    compare(
        "do_pca",
        partial(do_pca, vectors),
        "scikit-learn",
        partial(theirs.fit, vectors),
        rounds=15,
    )


def page(rounds=15):
    """Print how long task 4's page in figures/ keeps the main thread of a browser busy,
    by what a visitor does.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1400,900",
    ):
        options.add_argument(flag)
    with webdriver.Chrome(
        options, webdriver.ChromeService(shutil.which("chromedriver"))
    ) as browser:
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        browser.get((FIGURES / "task4_explorer.html").as_uri())

        def busy():
            """Return the milliseconds that the main thread has been busy, once all is
            painted.
            """
            browser.execute_async_script(
                "requestAnimationFrame(() => setTimeout(arguments[0], 300))"
            )
            metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            return 1e3 * next(
                metric["value"]
                for metric in metrics
                if metric["name"] == "TaskDuration"
            )

        def mouse(kind, x, y, button="none"):
            event = {
                "type": f"mouse{kind}",
                "x": float(x),
                "y": float(y),
                "button": button,
                "clickCount": 1,
            }
            browser.execute_cdp_cmd(
                "Input.dispatchMouseEvent", event | {"buttons": int(button == "left")}
            )

        def lasso(x):
            for kind, *place in (
                ("Pressed", -40, -40),
                ("Moved", x, -40),
                ("Moved", x, 40),
                ("Released", -40, 40),
            ):
                mouse(kind, *np.add(middle, place), button="left")

        print(f"page: opening {busy():.0f} ms")
        middle = browser.execute_script("""
            const panel = [...Bokeh.documents[0]._all_models.values()].find(({type}) => type == "Figure");
            const {left, top, width, height} = Bokeh.index.find_one(panel).el.getBoundingClientRect();
            return [left + width / 2, top + height / 2];""")  # there are many dots
        for name, act in (
            ("pointing", lambda x: mouse("Moved", *np.add(middle, (x, 0)))),
            ("lasso", lasso),
        ):
            seen = [(busy(), act(x), busy()) for x in range(5, 5 + 5 * rounds, 5)]
            low, median, high = np.quantile(
                [after - before for before, _, after in seen], (0, 0.5, 1)
            )
            print(
                f"page: {name} {median:.0f} ms ({low:.0f} to {high:.0f} in {rounds})",
                flush=True,
            )


if __name__ == "__main__":
    os.environ.pop("MNIST_DIR", None)
    parts = {each.__name__: each for each in (step, epoch, cuda, pca, page)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=parts, help="what to measure")
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, NumPy {np.__version__}, PyTorch {torch.__version__}"
    )
    for name in parser.parse_args().parts:
        parts[name]()
