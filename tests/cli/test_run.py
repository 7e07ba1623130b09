"""`gradgraph run`: a program that is run notices nothing, ends as it would, and its passes are listed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gradgraph
from tests.cli.conftest import RunCli

NO_PASS = "{0} ran no backward pass (backward() or autograd.grad()).\n"
WGAN = """\
import sys, torch
critic = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
for step in range(int(sys.argv[1])):
    x = torch.ones(3, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    (slope.norm() - 1).square().backward()
    for short in range(step % 2):
        critic(x).mean().backward()
    print("step", step)
"""

pytestmark = pytest.mark.usefixtures("folder")

Done = subprocess.CompletedProcess


def python(*words: str, given: str = "") -> Done[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, input=given)


def run(*words: str, given: str = "") -> Done[str]:
    return python("-m", "gradgraph", "run", *words, given=given)


def listing(done: Done[str], alone: Done[str]) -> str:
    """What `run` added to the program's stderr."""
    assert done.stderr.startswith(alone.stderr), done.stderr
    return done.stderr.removeprefix(alone.stderr)


# --------------------------------------------------------------------------------------------- as python runs it

FACTS = '''\
"""Its doc."""
import json, os, sys
class Local: pass
main = sys.modules["__main__"]
hidden = {key: str(value).split(" at 0x")[0] for key, value in vars(main).items() if key.startswith("__")}
facts = [sys.argv, sys.path, os.getcwd(), hidden, vars(main) is globals(), Local.__module__, sys.stdin.read(),
         (lambda: 0).__code__.co_filename,
         [name for name in sys.modules if name.split(".")[0] in ("torch", "networkx", "numpy")], sys.flags]
print(json.dumps(facts))
'''


@pytest.mark.parametrize(
    "words",
    [
        ["facts.py", "--epochs", "3", "--", "-h", "--pass", "2"],
        ["./package/../facts.py"],
        ["-m", "package.facts", "-o", "x"],
        ["dir", "-x"],
        ["app.zip"],
    ],
    ids=" ".join,
)
def test_a_program_finds_everything_as_under_python(words: list[str]) -> None:
    for path in ("facts.py", "package/facts.py", "dir/__main__.py"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(FACTS)
    with zipfile.ZipFile("app.zip", "w") as archive:
        archive.write("facts.py", "__main__.py")
    alone, done = python(*words, given="typed"), run(*words, given="typed")
    assert done.stdout == alone.stdout
    assert json.loads(alone.stdout)[6] == "typed"
    assert (done.returncode, alone.returncode) == (0, 0)
    assert listing(done, alone) == NO_PASS.format(words[1] if words[0] == "-m" else words[0])


def test_the_installed_command_leaves_its_folder_from_the_path() -> None:
    command = Path(sys.executable).with_name("gradgraph")
    if not command.exists():
        pytest.skip("gradgraph is not installed as a command")
    Path("facts.py").write_text(FACTS)
    done = subprocess.run([str(command), "run", "facts.py"], capture_output=True, text=True, input="")
    assert done.stdout == python("facts.py").stdout


ENDS = """\
import atexit, concurrent.futures, os, signal, sys, threading, time
how = sys.argv[1]
atexit.register(lambda: print("atexit", sys.argv, flush=True))
print("begins")
class Late(threading.Thread):
    def run(self):
        time.sleep(0.1)
        print("thread ends")
def fails():
    raise ValueError("first")
if how == "status": sys.exit(3)
if how == "message": sys.exit("a message")
if how == "none": sys.exit()
if how == "negative": sys.exit(-1)
if how == "tuple": sys.exit((1, 2))
if how == "raise": fails()
if how == "chain":
    try:
        try:
            fails()
        except ValueError as error:
            raise KeyError("second") from error
    except KeyError:
        raise RuntimeError("third")
if how == "interrupt": raise KeyboardInterrupt
if how == "_exit": os._exit(7)
if how == "hook":
    sys.excepthook = lambda kind, *_: print("hook", kind, file=sys.stderr)
    fails()
if how == "bad-hook":
    sys.excepthook = lambda *_: 1 / 0
    fails()
if how == "thread": Late().start()
if how == "thread-raises":
    thread = threading.Thread(target=fails, name="mine")
    thread.start()
    thread.join()
if how == "idle-pool": print(concurrent.futures.ThreadPoolExecutor(1).submit(lambda: 5).result())
if how == "stdout":
    sys.stdout = open("captured", "w")
    print("into a file")
if how == "closed":
    sys.stdout.close()
    sys.stderr.close()
if how == "chdir": os.chdir("/")
if how == "handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
if how == "atexit-raises":
    class Fails:
        __repr__ = lambda self: "Fails()"
        __call__ = lambda self: fails()
    atexit.register(Fails())
if how == "fork":
    child = os.fork()
    if child:
        print("child's status", os.waitpid(child, 0)[1])
    else:
        sys.exit(4)
if how == "fork-falls":
    child = os.fork()
    print(bool(child), os.waitpid(child, 0)[1] if child else None)
if how == "fork-raises":
    if os.fork() == 0:
        fails()
    os.wait()
"""

_POSIX = pytest.mark.skipif(os.name == "nt", reason="forks")


@pytest.mark.parametrize(
    "how",
    [
        *["ends", "status", "message", "none", "negative", "tuple", "raise", "chain", "_exit", "hook", "bad-hook"],
        *["thread", "thread-raises", "idle-pool", "stdout", "closed", "chdir", "handler", "atexit-raises"],
        *(pytest.param(how, marks=_POSIX) for how in ("fork", "fork-falls", "fork-raises")),
    ],
)
def test_a_program_ends_as_under_python(how: str) -> None:
    Path("ends.py").write_text(ENDS)
    alone, done = python("ends.py", how), run("ends.py", how)
    assert done.stdout == alone.stdout
    assert done.returncode == alone.returncode
    assert listing(done, alone) == ("" if how in ("_exit", "closed") else NO_PASS.format("ends.py"))


@pytest.mark.parametrize("signalled", [False, True])
def test_an_interrupt(signalled: bool) -> None:
    Path("stop.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
        if signalled
        else "raise KeyboardInterrupt"
    )
    alone, done = python("stop.py"), run("stop.py")
    assert done.returncode == 130
    assert listing(done, alone) == NO_PASS.format("stop.py")
    assert "KeyboardInterrupt" in alone.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_program_that_a_signal_kills() -> None:
    Path("killed.py").write_text(f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})")
    done = run("killed.py")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "", "")


@pytest.mark.parametrize("source", ["x = 1\ndef (:\n", "import broken\n", "# -*- coding: nonsense -*-\n"])
def test_a_program_that_cannot_be_compiled(source: str) -> None:
    Path("broken.py").write_text("def f(:\n")
    Path("bad.py").write_text(source)
    alone, done = python("bad.py"), run("bad.py")
    assert (done.returncode, alone.returncode) == (1, 1)
    if source.startswith(("x", "import")):
        assert listing(done, alone) == NO_PASS.format("bad.py")
    else:  # without a line of its own, Python words it otherwise
        assert "SyntaxError" in done.stderr
        assert "gradgraph/" not in done.stderr


def test_a_module_that_is_not_there() -> None:
    done = run("-m", "not_there")
    assert done.returncode == 1
    assert "No module named not_there" in done.stderr


# ------------------------------------------------------------------------------------------------------- torch


def test_torch_is_imported_by_the_program_itself() -> None:
    Path("env.py").write_text(
        "import os, sys, warnings\n"
        "assert 'torch' not in sys.modules\n"
        "os.environ['OMP_NUM_THREADS'] = '1'\n"
        "warnings.simplefilter('error')\n"
        "before = list(sys.meta_path)[-3:]\n"
        "import torch\n"
        "print(torch.get_num_threads(), sys.meta_path[-3:] == before, vars(torch.__spec__.loader).keys())\n"
        "torch.ones(1, requires_grad=True).sum().backward()\n"
    )
    alone, done = python("env.py"), run("env.py")
    assert done.stdout == alone.stdout
    assert done.returncode == 0, done.stderr
    assert listing(done, alone).startswith("env.py ran 1 backward pass in ")


ERRORS = """\
import sys, torch
how = sys.argv[1]
net = torch.nn.Linear(2, 3)
net(torch.ones(1, 2)).sum().backward()
def hook(gradient):
    raise KeyError("in a hook")
class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a): return a * 2
    @staticmethod
    def backward(ctx, g): raise TypeError("in backward")
y = net(torch.ones(4, 2))
if how == "hook":
    y.register_hook(hook)
    y.sum().backward()
if how == "no-graph": torch.ones(1).backward()
if how == "shapes": torch.nn.functional.cross_entropy(y, torch.ones(7))
if how == "twice":
    y.sum().backward()
    y.sum().backward()
if how == "function": Doubled.apply(net.weight).sum().backward()
"""


@pytest.mark.parametrize("how", ["hook", "no-graph", "shapes", "twice", "function"])
def test_an_error_of_the_program_is_shown_as_under_python(how: str) -> None:
    Path("errors.py").write_text(ERRORS)
    alone, plain = python("errors.py", how), run("errors.py", how)
    recorded = run("--pass", "1", "-o", "first.json", "errors.py", how)
    assert "Traceback" in alone.stderr
    for done in (plain, recorded):
        assert done.returncode == alone.returncode == 1
        added = listing(done, alone)
        if how == "shapes":
            assert "errors.py ran 1 backward pass" in added
        else:
            kind = {"hook": "KeyError", "function": "TypeError"}.get(how, "RuntimeError")
            assert f"backward, raised {kind}" in added
    assert gradgraph.read_json("first.json").graph["orders"] == [0]


def test_debug_shows_our_own_frames_too() -> None:
    Path("errors.py").write_text(ERRORS)
    done = python("-m", "gradgraph", "--debug", "run", "errors.py", "hook")
    assert f"{Path('gradgraph') / 'passes.py'}" in done.stderr


# ----------------------------------------------------------------------------------------------------- the list


def test_passes_of_one_line_and_shape_are_one_row() -> None:
    Path("wgan.py").write_text(WGAN)
    alone, done = python("wgan.py", "4"), run("wgan.py", "4")
    assert done.stdout == alone.stdout
    head, names, *rows = [re.sub(r"\s{2,}", "  ", line) for line in listing(done, alone).splitlines()]
    time = r"[\d.]+ .?s"
    assert re.fullmatch(rf"wgan\.py ran 10 backward passes in {time}", head)
    assert names == "pass  times  line  call  orders  nodes  holds  time  each"
    for row, pattern in zip(
        rows,
        [
            rf"1 … 8  ×4  wgan\.py:5  grad create_graph  0  \d+  \d+ B  {time}  {time}",
            rf"2 … 9  ×4  wgan\.py:6  backward  0 1  \d+  \d+ B  {time}  {time}",
            rf"5, 10  ×2  wgan\.py:8  backward  0  \d+  \d+ B  {time}  {time}",
        ],
        strict=True,
    ):
        assert re.fullmatch(pattern, row), row


def test_the_list_as_json() -> None:
    Path("wgan.py").write_text(WGAN)
    done = run("--json", "wgan.py", "1")
    printed, _, text = done.stdout.partition("{")
    assert printed == "step 0\n"
    assert done.stderr == ""
    value = json.loads("{" + text)
    assert (value["program"], value["passes"], value["written"]) == ("wgan.py", 2, [])
    first, second = value["rows"]
    graph = traced("wgan.py", "2")
    assert first["passes"] == [1, 1]
    assert second == {
        "passes": [2, 2],
        "count": 1,
        "every": None,
        "source": "wgan.py:6 in <module>",
        "accumulates": True,
        "create_graph": False,
        "orders": graph.graph["orders"],
        "nodes": [len(graph)] * 2,
        "held_bytes": [sum(data["saved_bytes"] for _, data in graph.nodes(data=True))] * 2,
        "seconds": second["seconds"],
        "raised": None,
    }
    assert 0 < second["seconds"] < value["seconds"]
    assert run("--json", "--listing", "passes.json", "wgan.py", "1").stdout == "step 0\n"
    assert json.loads(Path("passes.json").read_text())["passes"] == 2


def traced(script: str, number: str) -> gradgraph.AutogradGraph:
    """What `render --pass` would draw of the pass."""
    command = [sys.executable, "-m", "gradgraph", "trace", script, "--pass", number, "-o", "again.json", "-f"]
    subprocess.run([*command, "--", "1"], check=True, capture_output=True)
    return gradgraph.read_json("again.json")


def test_chosen_passes_are_written() -> None:
    source = WGAN.replace("for step", "import os\nos.chdir('/')\nfor step")
    Path("wgan.py").write_text(source)
    done = run("-p", "2", "-p", "-1", "-p", "-5", "-o", "pass{pass}.json", "wgan.py", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("pass 2: pass2.json\npass -1: pass-1.json\npass -5: pass-5.json\n")
    second, last, first = (gradgraph.read_json(f"pass{number}.json") for number in (2, -1, -5))
    sources = [first.nodes[1]["source"], second.nodes[0]["source"], last.nodes[0]["source"]]
    assert sources == ["wgan.py:7 in <module>", "wgan.py:8 in <module>", "wgan.py:10 in <module>"]
    assert [graph.graph["orders"] for graph in (first, second, last)] == [[0], [0, 1], [0]]
    assert {data["module"] for _, data in last.nodes(data=True) if data["kind"] == "op"} >= {"critic.0", "critic.1"}
    states = {saved["state"] for _, data in second.nodes(data=True) for saved in data["saved"]}
    assert states == {"live"}


def test_a_picture_of_a_pass() -> None:
    Path("wgan.py").write_text(WGAN)
    done = run("-p", "2", "--theme", "dark", "--fold", "module", "wgan.py", "1")
    assert done.returncode == 0, done.stderr
    assert Path("wgan-pass2.png").read_bytes().startswith(b"\x89PNG")
    colored = run("-p", "2", "--color", "gradient", "-o", "colored.dot", "wgan.py", "1")
    assert "‖grad‖" in Path("colored.dot").read_text(), colored.stderr
    saved = run("-g", "-p", "2", "-o", "saved.json", "wgan.py", "1")
    graph = gradgraph.read_json("saved.json")
    assert graph.nodes[graph.find("critic.0.weight")]["gradient"][0]["norm"] > 0, saved.stderr
    again = run("-p", "2", "wgan.py", "1")
    assert again.returncode == 2
    assert again.stdout == ""
    assert "wgan-pass2.png exists already; overwrite it with --force" in again.stderr


def test_a_pass_that_is_not_reached_and_a_picture_that_cannot_be_drawn() -> None:
    Path("wgan.py").write_text(WGAN)
    done = run("-p", "9", "-p", "-9", "-o", "p{pass}.dot", "wgan.py", "1")
    assert done.returncode == 1
    choice = "choose from 1 to 2, or from -2 (the first) to -1 (the last)."
    assert done.stderr.endswith(
        f"error: wgan.py ran 2 backward passes, so there is no pass 9; {choice}\n"
        f"error: wgan.py ran 2 backward passes, so there is no pass -9; {choice}\n"
    )
    done = run("-p", "1", "--focus", "nowhere", "-o", "p.dot", "wgan.py", "1")
    assert done.returncode == 1
    *_, error = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "nowhere" in error
    Path("wgan.py").write_text(WGAN + "sys.exit(3)")
    assert run("-p", "9", "wgan.py", "1").returncode == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run", "Missing argument 'SCRIPT'."),
        ("run --pass 0 train.py", "there is no pass 0; expected 1 for the first backward pass, or -1 for the last."),
        ("run --pass 1 --pass 2 -o a.png train.py", "a.png is one file for 2 passes; put {pass} in its name: "
         "a-{pass}.png"),
        ("run --pass 1 -o a.bmp train.py", "a.bmp has the suffix .bmp, which names no format; expected one of png, "
         "svg, pdf, dot, json, graphml."),
        ("run -p 1 --color curvature train.py", "--color curvature is not known while a program runs; take the pass "
         "with gradgraph render train.py --pass N --color curvature."),
        ("run --listing no/a.txt train.py", "there is no folder no to write no/a.txt into; create it first (mkdir "
         "-p)."),
        ("run --hops 2 train.py", "--hops says how far around a node, so it needs --focus NODE: a number, a name or a "
         "module."),
    ],
)  # fmt: skip
def test_wrong_usage_is_found_before_anything_runs(run_cli: RunCli, line: str, message: str) -> None:
    result = run_cli(line)
    assert result.exit_code == 2
    assert result.stderr == f"error: {message} `gradgraph run --help` shows the usage.\n"
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run nowhere.py", "there is no file nowhere.py; expected "),
        ("run package", "package is a folder without a __main__.py; expected a script, for example package/train.py"),
        ("run train.py:loss", "train.py:loss is no script; expected the path of a Python program"),
        ("run graph.json", "graph.json is no script; expected the path of a Python program"),
    ],
)
def test_what_is_no_program(run_cli: RunCli, saved: Path, line: str, message: str) -> None:
    result = run_cli(line)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {message}")


# ------------------------------------------------------------------------------------------- processes, threads

PROCESSES = """\
import multiprocessing, os, sys, threading
import torch
from torch.utils.data import DataLoader
def step(size):
    weight = torch.ones(size, requires_grad=True)
    (weight * weight).sum().backward()
    return weight.grad.sum().item()
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return torch.tensor(step(2))
class Thread(threading.Thread):
    def run(self):
        self.value = step(5)
def child(queue, size):
    queue.put((step(size), __name__, sys.argv[1:]))
if __name__ == "__main__":
    print(step(3))
    for how in sys.argv[1:]:
        context = multiprocessing.get_context(how)
        queue = context.Queue()
        process = context.Process(target=child, args=(queue, 4))
        process.start()
        print(how, queue.get(timeout=100))
        process.join()
        print(process.exitcode)
        print([batch.item() for batch in DataLoader(Data(), num_workers=1, multiprocessing_context=how)])
    thread = Thread()
    thread.start()
    thread.join()
    print(thread.value, flush=True)
    forked = os.fork()
    if not forked:
        print(step(7))
        sys.exit(4)
    print(os.waitpid(forked, 0)[1] >> 8)
    os.chdir("/")
    step(3)
"""


@_POSIX
@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_only_the_program_itself_is_listed_not_the_processes_that_it_starts(how: str) -> None:
    Path("processes.py").write_text(PROCESSES)
    alone, done = (
        python("-W", "ignore", "processes.py", how),
        run("--pass", "-1", "-o", "last.json", "processes.py", how),
    )
    assert alone.returncode == 0, alone.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone.stdout
    assert done.stderr.count("backward passes") == 1
    assert "processes.py ran 3 backward passes" in done.stderr
    assert gradgraph.read_json("last.json").leaves() == {2: "weight"}


@_POSIX
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_render_is_done_by_the_program_itself_alone(how: str) -> None:
    Path("processes.py").write_text(
        PROCESSES + "    import atexit\n    atexit.register(print, 'at exit')\n    print('ends')\n"
    )
    done = python("-m", "gradgraph", "render", "processes.py", "-o", "-", "-F", "dot", "--", how)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digraph")
    assert done.stdout.count("digraph") == 1
    assert done.stdout.endswith("}\n")
    alone = python("-W", "ignore", "processes.py", how)
    assert [line for line in done.stderr.splitlines() if line in alone.stdout.splitlines()] == alone.stdout.splitlines()


@_POSIX
def test_a_child_of_render_that_fails_shows_its_own_error() -> None:
    Path("forks.py").write_text(
        "import os, torch\n"
        "torch.ones(1, requires_grad=True).sum().backward()\n"
        "if os.fork() == 0:\n    raise ValueError('in the child')\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 1\n"
    )
    done = python("-m", "gradgraph", "summary", "forks.py", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nodes"] == 2
    assert done.stderr == python("forks.py").stderr


def test_a_fault_of_ours_is_none_of_the_programs() -> None:
    Path("sabotage.py").write_text(
        "import torch\n"
        "import gradgraph.counting\n"
        "def broken(*_): raise KeyError('gone')\n"
        "gradgraph.counting.Walk = broken\n"
        "torch.ones(1, requires_grad=True).sum().backward()\n"
        "torch.ones(1, requires_grad=True).sum().backward()\n"
        "print('ends')\n"
    )
    done = run("sabotage.py")
    assert (done.returncode, done.stdout) == (1, "ends\n")
    assert done.stderr.splitlines()[1:] == [
        "error: gradgraph itself failed after 0 passes with KeyError: 'gone', and watched no further. This is a bug: "
        "please report it."
    ]


def test_passes_of_a_program_that_imports_gradgraph_itself() -> None:
    Path("own.py").write_text(
        "import gradgraph, torch\n"
        "x = torch.ones(2, requires_grad=True)\n"
        "loss = (x ** 3).sum()\n"
        "print(gradgraph.hessian_diagonal(loss, [x])['x'].tolist())\n"
        "loss.backward()\n"
    )
    done = run("own.py")
    assert done.stdout == "[6.0, 6.0]\n", done.stderr
    assert "own.py ran 1 backward pass " in done.stderr
