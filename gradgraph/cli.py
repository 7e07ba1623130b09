"""The command `gradgraph`: the group, how errors end, and which module holds which command.

Parses and prints, computes nothing. Nothing but click is imported before a command runs: `gradgraph --help` and shell
completion come at once, without torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from gradgraph import __version__
from gradgraph.errors import GradGraphError

__all__ = ["main"]

_COMMANDS = ("render", "run", "trace", "summary", "memory", "hessian", "doctor", "completion")

_EPILOG = """\b
Examples:
  gradgraph render train.py                  the graph of its last backward pass, as train.png
  gradgraph run train.py --epochs 3          run it as python does, and list its backward passes
  gradgraph summary train.py:loss            what the graph behind the variable `loss` is made of
  gradgraph hessian train.py                 the Hessian's diagonal, per parameter
  gradgraph doctor                           what this installation can do

\b
TARGET is one of:
  train.py                  run it; its last backward pass is the graph
  train.py:loss             a global of it after the run, or a function of it to call
  package.module:loss       the same for a module to import
  graph.json                a graph saved by `gradgraph trace`
What follows `--` are arguments of the script: gradgraph render train.py -- --epochs 3
`gradgraph run` takes a script alone, and after it the script's arguments.

\b
Exit status: 0 all went well, 1 the target or gradgraph failed, 2 wrong usage, 130 interrupted.
Tab completion: gradgraph completion --help"""


class _Failure(click.ClickException):
    """An error that ends the command with one line."""

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(f"error: {self.format_message()}", err=True)


class _WrongUsage(_Failure):
    exit_code = 2


def _in_one_line(error: click.UsageError) -> click.ClickException:
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
        return error
    path = error.ctx.command_path if error.ctx else "gradgraph"
    return _WrongUsage(f"{error.format_message()} `{path} --help` shows the usage.")


class _Commands(click.Group):
    """Finds each command in its module, and turns what it raises into one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"gradgraph.commands.{cmd_name}").command
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise _in_one_line(error) from None

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _in_one_line(error) from None
        except KeyboardInterrupt:
            click.echo("error: interrupted.", err=True)
            ctx.exit(130)
        except GradGraphError as error:
            self._show_traceback(ctx)
            raise _Failure(str(error)) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own, and a reader that has left
        except OSError as error:
            self._show_traceback(ctx)
            raise _Failure(f"{error}: the system refused; check the disk, the permissions and the paths.") from None
        except Exception as error:
            # A fault of ours: the traceback is for the report, not for whoever only wanted a picture.
            self._show_traceback(ctx)
            described = " ".join(f"{type(error).__name__}: {error}".split())
            raise _Failure(
                f"gradgraph itself failed with {described}. This is a bug: please report it with what "
                "`gradgraph --debug ...` shows."
            ) from None

    @staticmethod
    def _show_traceback(ctx: click.Context) -> None:
        if ctx.params.get("debug"):
            import traceback

            traceback.print_exc(file=sys.stderr)


@click.command(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, "-V", "--version", prog_name="gradgraph", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:  # noqa: ARG001 - read where an error is shown
    """Trace, measure and draw PyTorch autograd graphs, double-backward ones included."""
    if ctx.invoked_subcommand == "run":
        return  # the program's warnings are its own
    import warnings

    # torch says this at its import where there is no NumPy, which gradgraph does not need either.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
