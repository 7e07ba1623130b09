"""What recording costs a training step, beside anomaly mode."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

import gradgraph
from tests.benchmarks.timing import markdown

Step = Callable[[], None]


class Layers(nn.Module):
    """10 layers of four operations: with the loss, a forward of 41."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(width, width) for _ in range(10)])

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linears:
            x = torch.tanh(linear(x)) * 1.5 + 0.1
        return x.square().mean()


def training_step(width: int, batch: int, *, double_backward: bool) -> Step:
    """One step of SGD, on the loss or on the loss and the squared norm of its gradient."""
    torch.manual_seed(0)
    model, x = Layers(width), torch.randn(batch, width)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(x)
        if double_backward:
            slopes = torch.autograd.grad(loss, parameters, create_graph=True)
            loss = loss + torch.stack([slope.square().sum() for slope in slopes]).sum()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Step, steps: int) -> float:
    """Processor time of one step of several."""
    start = time.thread_time()
    for _ in range(steps):
        step()
    return (time.thread_time() - start) / steps


def measured(step: Step, steps: int, rounds: int) -> dict[str, float]:
    """Median seconds of a step, alone and watched, in turn."""

    def anomaly() -> AbstractContextManager[object]:
        return torch.autograd.set_detect_anomaly(True, check_nan=False)

    watchers: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "alone": nullcontext,
        "record": gradgraph.record,
        "record, no lines": lambda: gradgraph.record(source=False),
        "anomaly": anomaly,
    }
    times: dict[str, list[float]] = {name: [] for name in watchers}
    for _ in range(rounds):
        for name, watcher in watchers.items():
            with watcher():
                step()
                times[name].append(seconds(step, steps))
    return {name: statistics.median(values) for name, values in times.items()}


def table() -> str:
    import warnings

    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Anomaly Detection")
        for what, width, batch, steps in (
            ("tiny tensors, width 8, batch 4", 8, 4, 20),
            ("width 768, batch 128", 768, 128, 2),
        ):
            for double_backward in (False, True):
                step = training_step(width, batch, double_backward=double_backward)
                times = measured(step, steps, 21 if steps > 2 else 7)
                rows.append(
                    [
                        f"{what}, {'double backward' if double_backward else 'first order'}",
                        f"{times['alone'] * 1e3:.2f}",
                        *(
                            f"{times[name] / times['alone']:.2f} ×"
                            for name in ("record", "record, no lines", "anomaly")
                        ),
                    ]
                )
    torch.set_num_threads(threads)
    return markdown(
        ["step of 41 operations", "alone, ms", "`record()`", "`record(source=False)`", "anomaly mode"], rows
    )
