"""Builds the SDK and tests it alone: in new environments that hold it, challenge-rules and their dependencies only.

    make client-alone       # about five minutes; each Python from 3.11 to 3.13 that is at hand

For each Python twice, with the lowest and with the newest supported versions of every dependency. A real server runs
beside it, from this project's environment. The same again with the extra `proof`, in environments in which nothing but
`challenge verify-proof` has to work: it checks a proof that this server's database gave. Then the types: mypy and
basedpyright, both strict, read the cookbook's examples as a user's program. Prints what is installed and how large it
is.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from challenge_client import ChallengeClient
from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from tests.conftest import ServerProcess

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
LOWEST = {"grpcio": "1.62.0", "protobuf": "4.25.0", "googleapis-common-protos": "1.63.0"}
LOWEST_OF_PROOF = {"cryptography": "42.0.0", "rich": "13.7.0", "typer": "0.16.0"}
FIRST_WHEELS = {("grpcio", "3.13"): "1.66.2"}
"""Where the lowest version was never built for a Python, the first that was."""
TEST_TOOLS = ("pytest>=9,<10", "pytest-asyncio>=1,<2", "pytest-timeout>=2.3,<3", "hypothesis>=6.100,<7")
NEEDS_MORE = re.compile(
    r"challenge_engine|challenge_server|start_server|database_url|grpc_testing|challenge_client\.cli|twins"
)
"""Tests of the SDK that need more than it."""
PROOF_TESTS = ROOT / "tests" / "client" / "test_proofs.py"
"""Those that need the extra `proof` and no more."""
CONFTEST = '''"""Stands in for the project's own, which needs the service."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_server_address():
    return os.environ["CHALLENGE_TARGET"]


@pytest.fixture(scope="session")
def server_address(real_server_address):
    return real_server_address
'''


def main() -> int:
    """Everything above; the exit code says whether all of it held."""
    with tempfile.TemporaryDirectory(prefix="client-alone-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        wheels = directory / "wheels"
        _call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(wheels),
              str(ROOT / "engine"), str(ROOT / "client"))  # fmt: skip
        _copy_tests(directory)
        with EmbeddedPostgres.open(directory / "data") as postgres:
            url = normalise_url(postgres.url).render_as_string(hide_password=False)
            _call(sys.executable, "-m", "challenge_server", "migrate", "--database-url", url)
            key = directory / "seal-key.pem"
            _call(sys.executable, "-m", "challenge_server", "keygen", "-o", str(key))
            server = ServerProcess(
                "--listen", "127.0.0.1:0", "--log-level", "error", "--seal-key", str(key), "--database-url", url
            )
            try:
                address = server.wait_ready()
                _prove(address, url, directory / "proof.json")
                failures = [
                    f"{python}, {versions}, {what}"
                    for python in PYTHONS
                    for versions in ("lowest", "newest")
                    if (found := _interpreter(python)) is not None
                    for what, holds in (
                        ("SDK", _holds(found, python, versions, directory, wheels, address)),
                        ("proof", _proofs_hold(found, python, versions, directory, wheels)),
                    )
                    if not holds
                ]
                if not _types_hold(directory, wheels):
                    failures.append("types")
            finally:
                server.close()
    print("all hold" if not failures else f"failed: {'; '.join(failures)}")
    return 1 if failures else 0


def _interpreter(python: str) -> Path | None:
    """One of this version: on the path, or of pyenv, whose shims work for one version alone."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(pyenv.glob(f"versions/{python}.*/bin/python{python}"), reverse=True)
    candidates = [found for found in (shutil.which(f"python{python}"), *map(str, installed)) if found]
    return next((Path(found) for found in candidates if _works(found)), None)


def _works(python: str, code: str = "") -> bool:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, check=False).returncode == 0


def _prove(address: str, url: str, path: Path) -> None:
    """Write the proof of a challenge that fails by its second trade."""
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    with ChallengeClient(address) as client:
        made = client.create_challenge(initial_balance=100_000)
        for number, pnl in enumerate((500, -6000)):
            moment = noon + timedelta(minutes=number)
            client.submit_trade(made.challenge_id, trade_id=f"t{number}", realized_pnl=pnl, executed_at=moment)
    _call(sys.executable, "-m", "challenge_server", "prove", made.challenge_id, "-o", str(path), "--database-url", url)


def _holds(python: Path, version: str, versions: str, directory: Path, wheels: Path, address: str) -> bool:
    """Whether the SDK's tests and the cookbook pass in an environment of its own."""
    own = _environment(python, version, versions, directory, wheels)
    if own is None:
        return False
    cookbook = [_run_example(own, code, address, directory) for code in _examples()]
    print(f"  cookbook: {sum(cookbook)} of {len(cookbook)} examples", flush=True)
    return _tests_pass(own, "tests/client", directory, {"CHALLENGE_TARGET": address}) and all(cookbook)


def _proofs_hold(python: Path, version: str, versions: str, directory: Path, wheels: Path) -> bool:
    """Whether, in an environment with the extra `proof` alone, a proof of the service is checked as it has to be."""
    own = _environment(python, version, versions, directory, wheels, extra="proof")
    if own is None:
        return False
    proof, changed = directory / "proof.json", directory / "changed.json"
    content = bytearray(proof.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    checked = {
        path: subprocess.run(
            [own.with_name("challenge"), "verify-proof", path, "--key", directory / "seal-key.pem.pub"],
            cwd=directory, capture_output=True, text=True, check=False,
        )
        for path in (proof, changed)
    }  # fmt: skip
    told, refused = checked[proof], checked[changed]
    is_proved = told.returncode == 0 and "It is FAILED by MAX_DAILY_DRAWDOWN" in told.stdout and "PROVED" in told.stdout
    is_refused = refused.returncode == 1 and refused.stdout == "" and refused.stderr.startswith("NOT PROVED: ")
    print(
        f"  the proof is {'' if is_proved else 'NOT '}accepted; one changed byte is {'' if is_refused else 'NOT '}found"
    )
    if not (is_proved and is_refused):
        print(told.stdout, told.stderr[-2000:], refused.stdout, refused.stderr[-2000:])
    return _tests_pass(own, "tests/proofs", directory, {}) and is_proved and is_refused


def _environment(
    python: Path, version: str, versions: str, directory: Path, wheels: Path, *, extra: str = ""
) -> Path | None:
    """The Python of a new environment that holds the SDK, and perhaps an extra of it; None if it holds the engine."""
    environment = directory / f"env-{version}-{versions}{extra and f'-{extra}'}"
    _call(str(python), "-m", "venv", str(environment))
    own = environment / "bin" / "python"
    named = LOWEST | (LOWEST_OF_PROOF if extra == "proof" else {})
    lowest = {name: FIRST_WHEELS.get((name, version), number) for name, number in named.items()}
    pins = [f"{name}=={number}" for name, number in lowest.items()] if versions == "lowest" else []
    (client,) = wheels.glob("challenge_client-*.whl")
    (rules,) = wheels.glob("challenge_rules-*.whl")
    _install(own, str(rules), f"{client}[{extra}]" if extra else str(client), *pins)
    with_extra = f" with the extra {extra}" if extra else ""
    print(f"Python {version}, {versions} versions{with_extra}: {_installed(own)}", flush=True)
    found = subprocess.run([own, "-c", "import challenge_engine"], capture_output=True, cwd=directory, check=False)
    if found.returncode == 0:
        print("  challenge_engine can be imported")
        return None
    return own


def _tests_pass(python: Path, tests: str, directory: Path, settings: dict[str, str]) -> bool:
    _install(python, *TEST_TOOLS)
    done = subprocess.run(
        [python, "-m", "pytest", tests, "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto",
         "-o", "asyncio_default_fixture_loop_scope=function", "--import-mode=importlib"],
        cwd=directory, env=os.environ | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(f"  tests: {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr}", flush=True)
    if done.returncode != 0:
        print(done.stdout[-3000:])
    return done.returncode == 0


def _run_example(python: Path, code: str, address: str, directory: Path) -> bool:
    code = code.replace("127.0.0.1:50051", address)
    done = subprocess.run([python, "-c", code], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"  an example failed: {done.stderr[-2000:]}")
    return done.returncode == 0


def _types_hold(directory: Path, wheels: Path) -> bool:
    """Whether strict checkers find nothing to say about the cookbook's examples as a user's program."""
    environment = directory / "env-types"
    _call(sys.executable, "-m", "venv", str(environment))
    own = environment / "bin" / "python"
    _install(own, *map(str, wheels.glob("*.whl")), "mypy>=1.15,<3", "basedpyright>=1.20,<2")
    program = directory / "program"
    program.mkdir()
    for number, code in enumerate(_examples()):
        (program / f"example_{number}.py").write_text(code, encoding="utf-8")
    (program / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', encoding="utf-8")
    held = True
    for command in (["-m", "mypy", "--strict", "."], ["-m", "basedpyright", "--pythonpath", str(own), "."]):
        done = subprocess.run([own, *command], cwd=program, capture_output=True, text=True, check=False)
        print(f"{command[1]}: {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr}")
        if done.returncode != 0:
            print(done.stdout[-3000:])
            held = False
    return held


def _examples() -> list[str]:
    text = (ROOT / "docs" / "sdk.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def _copy_tests(directory: Path) -> None:
    """The SDK's tests, but those that need more, those of proofs by themselves, and a conftest in place of ours."""
    tests = directory / "tests"
    shutil.copytree(ROOT / "tests" / "client", tests / "client", ignore=shutil.ignore_patterns("__pycache__"))
    (tests / "__init__.py").touch()
    (tests / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    for path in (tests / "client").glob("test_*.py"):
        if NEEDS_MORE.search(path.read_text(encoding="utf-8")):
            path.unlink()
    (tests / "proofs").mkdir()
    shutil.copy(PROOF_TESTS, tests / "proofs")


def _installed(python: Path) -> str:
    """Names and versions, and the size on disk without pip."""
    script = (
        "import importlib.metadata as m, pathlib, sysconfig\n"
        "found = [d for d in m.distributions() if d.name.lower() not in {'pip', 'setuptools'}]\n"
        "size = sum((f.locate().stat().st_size for d in found for f in d.files or () if f.locate().is_file()), 0)\n"
        "print(', '.join(sorted(f'{d.name} {d.version}' for d in found)), f'{size / 2**20:.1f} MiB', sep='; ')\n"
    )
    return subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def _install(python: Path, *requirements: str) -> None:
    _call(
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
        *requirements,
    )


def _call(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
