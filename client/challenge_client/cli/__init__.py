"""The `challenge` command line; comes with the extra `cli`."""

import sys


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        from challenge_client.cli.commands import run  # noqa: PLC0415 -- the extra may be missing
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"typer", "rich", "matplotlib"}:
            raise
        sys.exit(f"the command line needs {error.name}: pip install 'challenge-client[cli]'")
    run()
