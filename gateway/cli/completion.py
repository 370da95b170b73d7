"""`sluice completion`: the script that makes a shell complete commands, options, sessions, recipes and clusters."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash   echo 'eval "$(sluice completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(sluice completion zsh)"' >> ~/.zshrc
    fish   sluice completion fish > ~/.config/fish/completions/sluice.fish
    """
    from click.shell_completion import get_completion_class

    from gateway.cli.main import main

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(made(main, {}, "sluice", "_SLUICE_COMPLETE").source())
