"""`python -m challenge_server` is the same as `challenge-engine`."""

from challenge_server.cli import main

main()
