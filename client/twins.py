"""Makes the client for threads from the one for asyncio, so that their surface is written once.

    python client/twins.py            write client/challenge_client/client.py
    python client/twins.py --check    fail when it is not what this would write

Only the surface is made so. What differs in more than words (waiting, locks, loops) is written by hand in the modules
that come in pairs: `connection`, `event_stream` and `subscription`.
"""

import difflib
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "challenge_client"
SOURCE, TWIN = PACKAGE / "async_client.py", PACKAGE / "client.py"

SENTENCES = {
    "The client for asyncio. `client`, its twin for threads, is generated from this module by `make twins`.": (
        "The client for threads, generated from `async_client` by `make twins`: change that one."
    ),
    "Talks to a Challenge Engine from one event loop, that of its first call.": (
        "Talks to a Challenge Engine. May be used by many threads at once."
    ),
    "AsyncIterable, AsyncIterator, Iterable, Mapping": "Iterable, Iterator, Mapping",
    "Iterable[TradeSubmission] | AsyncIterable[TradeSubmission]": "Iterable[TradeSubmission]",
}
"""Said otherwise, and each there exactly once."""

WORDS = [
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\basync_(?=[a-z])", ""),
    (r"\bgrpc\.aio\b", "grpc"),
]


def twin_of(source: str) -> str:
    """The module for threads."""
    made = _in_threads(source)
    for sentence, other in SENTENCES.items():
        if made.count(_in_threads(sentence)) != 1:
            raise ValueError(f"{SOURCE.name} must hold this exactly once: {sentence}")
        made = made.replace(_in_threads(sentence), other)
    if left := re.findall(r".*\b(?:async |await |asyncio\.).*", made):
        raise ValueError(f"no rule makes these lines wait in a thread: {left}")
    return _ruff("format", "-", text=_ruff("check", "--quiet", "--select=I", "--fix", "-", text=made))


def _in_threads(text: str) -> str:
    for pattern, other in WORDS:
        text = re.sub(pattern, other, text)
    return text


def _ruff(*arguments: str, text: str) -> str:
    command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(TWIN)]
    return subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout  # noqa: S603 -- ours


def main() -> None:
    """See above."""
    wanted = twin_of(SOURCE.read_text(encoding="utf-8"))
    if "--check" not in sys.argv[1:]:
        TWIN.write_text(wanted, encoding="utf-8")
    elif (found := TWIN.read_text(encoding="utf-8")) != wanted:
        lines = (text.splitlines(keepends=True) for text in (found, wanted))
        sys.stdout.writelines(difflib.unified_diff(*lines, TWIN.name, "wanted"))
        sys.exit("the client for threads is not what the one for asyncio makes: run `make twins`")


if __name__ == "__main__":
    main()
