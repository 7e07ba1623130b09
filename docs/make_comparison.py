"""Make the pictures and figures of docs/comparison.md anew: two graphs, in gradgraph and in four other tools.

    pip install -c constraints.txt -e ".[bench]" -r docs/make_comparison.txt
    python docs/make_comparison.py [gradgraph] [torchviz] [torchview] [netron] [model_explorer]

Needs `dot`, and Chromium for the tools that live in a browser (`CHROMIUM` in the environment, else /usr/bin/chromium).
Takes some ten minutes, most of them for what is killed at its time limit. Neither the tests nor CI run it.

Netron and Model Explorer open files, and no exporter of torch takes a gradient penalty as it stands. They get the most
generous file that we know to make: `make_fx` writes forward and backward out as one flat list of operations.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "comparison"
PAGE = ROOT / "docs" / "comparison.md"
LIMIT = 300
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from examples import gpt2, wgan_gp  # noqa: E402


class Subject(NamedTuple):
    """A model, its input, and the scalar that is looked at as a function of both."""

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    scalar: Callable[..., Tensor]


def subjects() -> list[Subject]:
    _, critic = wgan_gp.make_nets()
    real, fake = wgan_gp.ring(64), torch.randn(64, 2)
    model, tokens = gpt2.make_model(), torch.arange(16).unsqueeze(0)
    return [
        Subject("critic", critic, (real,), lambda net, real: wgan_gp.gradient_penalty(net, real, fake)),
        Subject("gpt2", model, (tokens,), lambda net, _: gpt2.squared_gradient_norm(gpt2.loss_of(net), net)),
    ]


class Outcome(NamedTuple):
    """A row of the page's table."""

    what: str
    result: str


def outcome(what: str, make: Callable[[], str], *, timed: bool = True) -> Outcome:
    """Run `make`, which says what came out; an error is a result too, in its first line. Adds seconds if `timed`."""
    begin = time.perf_counter()
    try:
        result = make()
    except Exception as error:
        reason = (error.__cause__ or error).__str__().strip().splitlines()[0]
        result = f"{type(error.__cause__ or error).__name__}: {reason[:160]}"
    found = Outcome(what, f"{result}; {time.perf_counter() - begin:.1f} s" if timed else result)
    print(found, flush=True)
    return found


def small(path: Path) -> str:
    """Give a PNG a palette, which takes a third of the bytes; its size."""
    from PIL import Image

    with Image.open(path) as picture:
        flat = picture.convert("RGB")
    flat.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    return f"{flat.width} × {flat.height} pixels"


def with_dot(source: str, path: Path) -> str:
    """Lay out and draw as both tools do, but for a limited time."""
    try:
        subprocess.run(["dot", "-Tpng", "-o", str(path)], input=source, text=True, check=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"`dot` had not finished after {LIMIT} s, and was killed"
    return small(path)


def with_gradgraph(subject: Subject) -> Iterator[Outcome]:
    import gradgraph

    options: dict[str, Any] = {"depth": 2} if subject.name == "gpt2" else {}
    with gradgraph.record():
        scalar = subject.scalar(subject.model, *subject.inputs)

    def make() -> str:
        graph = gradgraph.trace(scalar, subject.model)
        path = gradgraph.render(graph, PICTURES / f"{subject.name}_gradgraph.png", **options)
        return f"{len(graph):,} nodes; {small(path)}"

    yield outcome(f"{subject.name}, penalty", make)


def with_torchviz(subject: Subject) -> Iterator[Outcome]:
    from torchviz import make_dot

    scalar = subject.scalar(subject.model, *subject.inputs)

    def make() -> str:
        graph = make_dot(scalar, dict(subject.model.named_parameters()))
        return with_dot(graph.source, PICTURES / f"{subject.name}_torchviz.png")

    yield outcome(f"{subject.name}, penalty", make)


def with_torchview(subject: Subject) -> Iterator[Outcome]:
    from torchview import draw_graph

    class Penalty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = subject.model

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():  # torchview runs the model without
                return subject.scalar(self.model, x)

    def make(model: nn.Module, name: str) -> str:
        graph = draw_graph(model, input_data=list(subject.inputs), depth=3 if subject.name == "critic" else 1)
        return with_dot(graph.visual_graph.source, PICTURES / f"{name}_torchview.png")

    yield outcome(f"{subject.name}, forward", lambda: make(subject.model, subject.name))
    yield outcome(f"{subject.name}, penalty", lambda: make(Penalty(), f"{subject.name}_penalty"))


def penalty_program(subject: Subject) -> torch.export.ExportedProgram:
    """Forward and backward of the scalar, written out as a function of the parameters."""
    from torch.fx.experimental.proxy_tensor import make_fx

    names = [name for name, _ in subject.model.named_parameters()]

    def scalar(values: list[Tensor]) -> Tensor:
        fast = {name: value.detach().requires_grad_() for name, value in zip(names, values, strict=True)}

        class Called(nn.Module):
            def forward(self, *inputs: Tensor) -> Tensor:
                return torch.func.functional_call(subject.model, fast, inputs)

            def parameters(self) -> list[Tensor]:
                return list(fast.values())

        return subject.scalar(Called(), *subject.inputs)

    values = [parameter.detach() for parameter in subject.model.parameters()]
    return torch.export.export(make_fx(scalar)(values), (values,))


def forward_program(subject: Subject) -> torch.export.ExportedProgram:
    return torch.export.export(subject.model, subject.inputs)


PROGRAMS = {"forward": forward_program, "penalty": penalty_program}


@contextmanager
def browser() -> Iterator[Any]:
    """A page of 1,600 x 1,000 pixels."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    flags += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=flags
        )
        try:
            yield chromium.new_page(viewport={"width": 1600, "height": 1000})
        finally:
            chromium.close()


def with_netron(subject: Subject) -> Iterator[Outcome]:
    import netron

    def show(file: Path, picture: Path, port: int) -> str:
        netron.start(str(file), address=("127.0.0.1", port), browse=False)
        try:
            with browser() as page:
                page.goto(f"http://127.0.0.1:{port}/")
                page.get_by_text("Accept").click()
                begin = time.perf_counter()
                while (state := page.locator("body").get_attribute("class")) not in ("default", "alert"):
                    if time.perf_counter() - begin > LIMIT:
                        return f"its layout had not finished after {LIMIT} s"
                    time.sleep(1)
                if state == "alert":
                    return page.locator("#message-text").inner_text()
                time.sleep(1)
                page.screenshot(path=picture)
                small(picture)
                return f"shown {time.perf_counter() - begin:.0f} s after the page opened"
        finally:
            netron.stop(("127.0.0.1", port))

    for number, (kind, program) in enumerate(PROGRAMS.items()):
        with tempfile.TemporaryDirectory() as folder:
            exported = program(subject)
            pt2, onnx = Path(folder, "model.pt2"), Path(folder, "model.onnx")
            torch.export.save(exported, pt2)
            what = f"{subject.name}, {kind}"
            picture = PICTURES / f"{subject.name}_{kind}_netron.png"
            port = 8101 + 2 * number
            yield outcome(f"{what}, .pt2", lambda: show(pt2, picture, port), timed=False)  # noqa: B023
            yield outcome(f"{what}, to ONNX", lambda: to_onnx(exported, onnx))  # noqa: B023
            yield outcome(f"{what}, .onnx", lambda: show(onnx, picture, port + 1), timed=False)  # noqa: B023


def to_onnx(exported: torch.export.ExportedProgram, path: Path) -> str:
    torch.onnx.export(exported, dynamo=True, verbose=False, report=False).save(path)
    return f"{path.stat().st_size:,} bytes"


def with_model_explorer(subject: Subject) -> Iterator[Outcome]:
    import model_explorer

    def show(file: Path, picture: Path, port: int) -> str:
        config = model_explorer.config()
        config.add_model_from_path(str(file))
        arguments = {"config": config, "port": port, "no_open_in_browser": True}
        threading.Thread(target=model_explorer.visualize_from_config, kwargs=arguments, daemon=True).start()
        time.sleep(3)
        with browser() as page:
            begin = time.perf_counter()
            page.goto(f"http://localhost:{port}/?data={config.to_url_param_value()}", timeout=60_000)
            page.get_by_text("op node count").wait_for(timeout=1000 * LIMIT)
            shown = time.perf_counter() - begin
            time.sleep(5)
            if subject.name == "critic":
                page.get_by_text("unfold_more_double").click()
            else:
                # The mark that opens the one layer between inputs and output, at the left of its box.
                page.mouse.move(615, 524)
                time.sleep(1)
                page.mouse.click(516 if picture.stem.startswith("gpt2_forward") else 148, 524)
            page.mouse.move(1200, 950)
            time.sleep(10 if subject.name == "critic" else 40)
            page.screenshot(path=picture)
            small(picture)
            return f"shown {shown:.0f} s after the page opened"

    for number, (kind, program) in enumerate(PROGRAMS.items()):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.pt2")
            torch.export.save(program(subject), file)
            picture = PICTURES / f"{subject.name}_{kind}_model_explorer.png"
            port = 8111 + 2 * number + (subject.name == "gpt2")
            yield outcome(f"{subject.name}, {kind}", lambda: show(file, picture, port), timed=False)  # noqa: B023


TOOLS = {
    "gradgraph": with_gradgraph,
    "torchviz": with_torchviz,
    "torchview": with_torchview,
    "netron": with_netron,
    "model_explorer": with_model_explorer,
}


def main(names: list[str]) -> None:
    from tests.benchmarks.__main__ import put
    from tests.benchmarks.timing import markdown

    PICTURES.mkdir(exist_ok=True)
    for name in names or TOOLS:
        rows = [list(row) for subject in subjects() for row in TOOLS[name](subject)]
        table = markdown(["what", "result"], rows).replace("---:", "---")
        PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), name, table), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    for picture in PICTURES.iterdir():
        if f"comparison/{picture.name})" not in page:
            picture.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
