"""Fixtures that the relay's tests share with the server's."""

from tests.server.conftest import embedded_dir

__all__ = ["embedded_dir"]
