"""A training step that CUDA records once and replays."""

import sys
from collections.abc import Callable

import torch

WARM_UP = 3  # steps before one is recorded


def recorded(
    step: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return `step`, which maps the indices of a batch [B] to its loss, replayed as a
    CUDA graph after a few calls.

    A step is some 45 kernels of microseconds, which Python launches one by one and a
    graph all at once. A graph uses the same memory every time, so the batch is copied
    to where it was recorded. The first steps and batches of another size run without
    the graph, and so do all steps if recording fails.
    """
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    calls = 0
    buffer = torch.empty(0)
    loss = torch.empty(0)

    def run(batch: torch.Tensor) -> torch.Tensor:
        usual = torch.backends.cuda.preferred_blas_library()
        # its float32 products are the fastest for few rows
        torch.backends.cuda.preferred_blas_library("cublaslt")
        try:
            return step(batch)
        finally:
            torch.backends.cuda.preferred_blas_library(usual)

    def call(batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls, buffer, loss
        calls += 1
        if calls <= WARM_UP:  # on a separate stream, as CUDA requires
            buffer = buffer if calls > 1 else batch.clone()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                result = run(batch)
            torch.cuda.current_stream().wait_stream(stream)
            return result
        if not loss.numel() and batch.shape == buffer.shape:
            try:
                # this runs nothing: the replay below is the step
                with torch.cuda.graph(graph):
                    loss = run(buffer)
            except RuntimeError as error:
                buffer = torch.empty(0)  # no batch has this shape
                reason = str(error).partition("\n")[0]
                message = f"CUDA cannot record a training step ({reason})"
                print(f"{message}; training continues without it", file=sys.stderr)
        if batch.shape != buffer.shape:
            return run(batch)
        buffer.copy_(batch)
        graph.replay()
        return loss.clone()

    return call
