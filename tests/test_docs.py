"""Everything that the README and the pages of docs/ tell people to type is typed here, page by page, as one session.

    ```sh        runs in a shell; the variables that it exports hold for the rest of the page
    ```python    runs as a program of its own, with that environment
    ```text      directly after one of those: what it printed. Numbers may differ; a line of `...` stands for any lines
    ```console   is not run: it sets up a machine (git clone, make, pip install) or shows what another program does

A line `fourfold serve …` of a shell block starts a server that runs until the page ends, on a free port.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END_OF_BLOCK = "=== end of block ==="
NUMBER = re.compile(r"-?\d+(,\d{3})*(\.\d+)?(e[+-]?\d+)?")
SERVE = re.compile(r"^(fourfold serve.*?)( +#.*)?$", re.MULTILINE)
BEGIN = """
set -eu
fourfold() {
  case "$1" in
    env) command fourfold "$@" --port "$PAGE_PORT" ;;
    run) shift; command fourfold run --endpoint-url "http://127.0.0.1:$PAGE_PORT" "$@" ;;
    *) command fourfold "$@" ;;
  esac
}
trap 'test -z "${SERVER:-}" || { kill $SERVER; wait $SERVER; }' EXIT
"""
START = """
command {} --port "$PAGE_PORT" > server.out 2> server.err & SERVER=$!
until grep ready server.out; do kill -0 $SERVER; sleep 0.05; done
"""


@dataclass
class Block:
    """A piece of a page that is run, and what it should print if the page says so."""

    language: str
    text: str
    output: str | None


def pages() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if any(one in ("sh", "python") for one, _ in FENCE.findall(page.read_text()))]


def blocks(page: Path) -> Iterator[Block]:
    matches = list(FENCE.finditer(page.read_text()))
    for number, match in enumerate(matches):
        if match[1] in ("sh", "python"):
            after = matches[number + 1] if number + 1 < len(matches) else None
            between = page.read_text()[match.end() : after.start()].strip() if after else "nothing"
            output = after[2] if after and after[1] == "text" and not between else None
            yield Block(match[1], match[2], output)


def script(parts: list[Block]) -> str:
    """One shell script for a page; a mark on standard output ends each block."""
    lines = [BEGIN]
    for part in parts:
        if part.language == "python":
            lines.append(f"python - <<'END_OF_PYTHON'\n{part.text}END_OF_PYTHON")
        else:
            lines.append(SERVE.sub(lambda match: START.format(match[1]), part.text))
        lines.append(f"echo '{END_OF_BLOCK}'")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_people_to_type_works(page: Path, tmp_path: Path) -> None:
    parts = list(blocks(page))
    (tmp_path / "page.sh").write_text(script(parts))
    command = ["/bin/sh", "page.sh"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    log = tmp_path / "server.err"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log.read_text() if log.exists() else ''}"
    printed = done.stdout.split(END_OF_BLOCK + "\n")
    for part, found in zip(parts, printed, strict=False):
        if part.output is not None:
            assert matches(part.output, found), f"the page shows\n{part.output}\nbut it printed\n{found}"


def test_a_page_shows_only_set_up_as_console() -> None:
    known = ("git clone", "cd ", "make ", "pip install", "python -m", "sudo ", "systemctl ", "journalctl ", "docker ")
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for language, text in FENCE.findall(page.read_text()):
            if language == "console":
                odd = [line for line in text.splitlines() if line and not line.startswith(known)]
                assert odd == [], page


def test_every_command_of_the_aws_cli_on_a_page_is_run() -> None:
    command = re.compile(r"(^|[|;&(`])\s*aws [a-z]", re.MULTILINE)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text()
        rest = [block for language, block in FENCE.findall(text) if language not in ("sh", "text")]
        assert not any(map(command.search, [*rest, FENCE.sub("", text)])), page


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        text = FENCE.sub("", page.read_text())
        for target in re.findall(r"(?<!`)\[[^\]]*\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text):
            link = "".join(target)
            if not link.startswith(("http://", "https://")) and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []


def test_the_index_leads_to_every_page_and_example() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index.read_text())}
    there = {*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("[0-9]*.py")} - {index}
    assert there - linked == set()


def test_generated_pages_are_current() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def matches(shown: str, printed: str) -> bool:
    """Are they the same but for numbers, blanks, and lines that the page leaves out with `...`?"""
    pattern = ".*?".join(re.escape(_plain(part)) for part in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE))
    return re.fullmatch(pattern, _plain(printed), re.DOTALL) is not None


def test_shown_output_is_compared() -> None:
    assert matches("took 1.25 s\n...\nend\n", "took  3.5 s\na\nb\nend\n")
    assert not matches("took 1.25 s\n", "took 3.5 ms\n")
    assert not matches("a\n...\nc\n", "a\nb\n")


def _plain(text: str) -> str:
    return re.sub(r"\s+", "", NUMBER.sub("#", text))


def _environment() -> dict[str, str]:
    """A shell's environment for a page: this interpreter first on the PATH, a free port, nothing of AWS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FOURFOLD_"))}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "PAGE_PORT": str(port), "AWS_CONFIG_FILE": os.devnull, "AWS_PAGER": ""}
