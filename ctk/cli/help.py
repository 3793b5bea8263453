"""`ctk help`: the help of a command, on the screen or as a manual page."""

import click

from ctk.errors import UsageError


@click.command(short_help="Show the help of a command, or its manual page.")
@click.argument(
    "command",
    nargs=-1,
    shell_complete=lambda ctx, _, word: [
        name for name in ctx.find_root().command.list_commands(ctx) if name.startswith(word)
    ],
)
@click.option("--man", is_flag=True, help="As a manual page: ctk help top --man | man -l -")
@click.pass_context
def help(ctx: click.Context, command: tuple[str, ...], man: bool) -> None:
    """Show what --help shows: of COMMAND, or of ctk itself."""
    about = ctx.find_root()
    for word in command:
        group = about.command
        if not isinstance(group, click.Group):
            hint = f"ctk help {about.info_name}"
            raise UsageError(f"{about.command_path} has no commands", hint=hint)
        name, found, _ = group.resolve_command(about, [word])
        assert found is not None
        about = click.Context(found, about, info_name=name)
    if man:
        from ctk.cli.manual import page

        click.echo(page(about), nl=False)
    else:
        click.echo(about.get_help())
