"""`ctk completion`: what makes a shell complete ctk's words."""

import click

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a script that completes ctk in your shell.")
@click.argument("shell", type=click.Choice(_SHELLS), metavar="|".join(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """
    Print a script that completes commands, flags, and names from the file that is asked.

    \b
    source <(ctk completion bash)    # in ~/.bashrc
    source <(ctk completion zsh)     # in ~/.zshrc
    ctk completion fish              # into ~/.config/fish/completions/ctk.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "ctk", "_CTK_COMPLETE").source())
