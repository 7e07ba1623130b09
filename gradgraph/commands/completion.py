"""`gradgraph completion`: the script that makes Tab complete commands, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]


@click.command(
    "completion",
    short_help="Tab completion for bash, zsh and fish.",
    epilog="""\b
Examples:
  gradgraph completion bash > ~/.gradgraph-complete.bash
  echo 'source ~/.gradgraph-complete.bash' >> ~/.bashrc
  gradgraph completion fish > ~/.config/fish/completions/gradgraph.fish
  echo 'eval "$(gradgraph completion zsh)"' >> ~/.zshrc""",
)
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the shell script that enables Tab completion."""
    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(ctx.find_root().command, {}, "gradgraph", "_GRADGRAPH_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())
