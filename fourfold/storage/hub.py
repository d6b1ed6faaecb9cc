"""Models of a Hugging Face hub: `hf://ORG/REPO[@REVISION][/FILE]`.

The download runs in a process of its own (`python -m fourfold.storage.hub URL`), because huggingface_hub is large and
reads its settings when it is imported. These are the server's environment: HF_ENDPOINT (another hub), HF_TOKEN (models
that need one), HF_HOME (its cache) and HF_HUB_OFFLINE=1 (the cache alone).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from fourfold.errors import ModelLoadError

SCHEME = "hf://"
DOWNLOAD_SECONDS = 3600.0
"""Time that one download may take."""

_URL = re.compile(
    r"hf://(?P<repository>[\w.-]+(?:/[\w.-]+)?+)(?:@(?P<revision>refs/pr/\d+|[^/@]+))?(?:/(?P<file>[^/].*))?"
)
_MISSING = 3
"""Exit status of the process where huggingface_hub is not installed."""


class Reference(NamedTuple):
    """What a `hf://` URL names."""

    repository: str
    revision: str | None = None
    file: str | None = None


def parse(url: str) -> Reference:
    """Take `hf://ORG/REPO[@REVISION][/FILE]` apart. Raises ModelLoadError showing the form."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ModelLoadError(f"{url!r} names no model of a hub: write hf://ORG/REPO[@REVISION][/FILE].")
    return Reference(match["repository"], match["revision"], match["file"])


def download(url: str) -> Path:
    """The snapshot's folder in the hub's cache, or the file that the URL names; blocking.

    The folder is called as the commit, so that its name tells its content. Files in it are links.

    Raises:
        ModelLoadError: no such model, revision or file, no access, no network, or no huggingface_hub.
    """
    parse(url)
    command = [sys.executable, "-m", "fourfold.storage.hub", url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelLoadError(f"{url} was not downloaded in {DOWNLOAD_SECONDS:g} s. Deploy again to go on.") from None
    if done.returncode == _MISSING:
        raise ModelLoadError(
            f"{url} needs the module huggingface_hub, which is not installed: pip install 'fourfold[huggingface]'"
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason was given"]
        raise ModelLoadError(f"Could not get {url} from the hub: {lines[-1]}")
    return Path(done.stdout.strip())


def main() -> None:
    """The process: prints where the download is, or why there is none."""
    wanted = parse(sys.argv[1])
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        sys.exit(_MISSING)
    try:
        if wanted.file is None:
            found = huggingface_hub.snapshot_download(wanted.repository, revision=wanted.revision)
        else:
            found = huggingface_hub.hf_hub_download(wanted.repository, wanted.file, revision=wanted.revision)
    except Exception as error:  # the hub's errors, the network's, and those of a full disk
        said = " ".join(str(error).split())
        sys.exit(f"{type(error).__name__}: {said}")
    print(found)


if __name__ == "__main__":
    main()
