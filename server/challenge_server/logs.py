"""What the service writes about itself: lines on standard error, in UTC."""

import logging
import time

from challenge_server.settings import SettingsError


def log_to_stderr(level: str, label: str = "") -> None:
    """Log from this level on; a `label` stands in every line, for processes that share one standard error."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise SettingsError(f"--log-level must be debug, info, warning or error; got {level!r}")
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03dZ %(levelname)s {label and f'[{label}] '}%(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=number, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
