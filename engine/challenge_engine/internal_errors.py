"""What is told of an unforeseen failure: an id to the caller, the rest to the log."""

import logging
import uuid

from challenge_rules.errors import InternalError

logger = logging.getLogger(__name__)


def log_internal(doing: str) -> InternalError:
    """Log the exception being handled under a new error_id; the error returned tells that id and nothing else."""
    error_id = str(uuid.uuid4())
    logger.exception("error_id=%s while %s", error_id, doing)
    return InternalError(error_id)
