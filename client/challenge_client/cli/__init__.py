"""The `challenge` command line; comes with the extra `cli`, and its `verify-proof` with the extra `proof` alone."""

import sys

SHARED = "'challenge-client[cli]' (for verify-proof alone: 'challenge-client[proof]')"
EXTRAS = {
    "typer": SHARED,
    "rich": SHARED,
    "matplotlib": "'challenge-client[cli]'",
    "cryptography": "'challenge-client[proof]'",
}
"""Where what a command loads comes from. Some load it when they run, so that others do without it."""


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        from challenge_client.cli.commands import run  # noqa: PLC0415 -- the extra may be missing

        run()
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        sys.exit(f"the command line needs {error.name}: pip install {extra}")
