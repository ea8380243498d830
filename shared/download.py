"""Large files from the network: fetched once, going on where a connection broke, and with advice where they cannot be.

Where a wheel lies, pip says: so the index, the mirror and the certificates that it is set up with hold here too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.request
from importlib import metadata
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

TRIES = 5  # one after the other, each from where the last one broke
PAUSE = 1.0  # seconds between two of them


class DownloadError(RuntimeError):
    """What went wrong, and what to do."""


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def wheel_address(requirement: str) -> str:
    """Where pip would take this wheel (`name==version`) from; DownloadError in pip's own words if it knows no place."""
    name, _, version = requirement.partition("==")
    try:
        pip = tuple(map(int, re.findall(r"\d+", metadata.version("pip"))[:2]))
    except metadata.PackageNotFoundError:
        raise DownloadError("this Python has no pip. `python -m ensurepip` installs it") from None
    command = [sys.executable, "-m", "pip", "--retries=1", "--disable-pip-version-check", "--no-color"]
    if pip >= (23, 3):
        command += ["install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--report", "-", requirement]
    else:  # its dry run would fetch the file
        command += ["index", "versions", "-vv", name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if pip >= (23, 3):
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return json.loads(done.stdout)["install"][0]["download_info"]["url"]
    elif found := re.findall(rf"Found link (\S+\.whl)\S* .*version: {re.escape(version)}$", done.stdout, re.MULTILINE):
        return found[0]
    said = (done.stderr + done.stdout).strip().splitlines()
    why = re.findall(r"broken by '(.+)': /", done.stderr + done.stdout)[-1:]
    why = [re.sub(r"<[^>]*>: |\w+Connection\([^)]*\): ", "", text) for text in why]
    errors = [line.strip() for line in said if "ERROR" in line][-1:] or said[-1:]
    raise DownloadError(". ".join(errors + why) or f"pip knows no {requirement}")


def fetch(address: str, target: Path, size: int, digest: str) -> Path:
    """The file at `address`, of so many bytes and with this sha256.

    What has arrived is kept beside `target` with `.part` at its name; the next call asks for the rest only.
    """
    from tqdm.auto import tqdm

    part = target.with_name(f"{target.name}.part")
    with tqdm(total=size, unit="B", unit_scale=True, desc=f"fetching {target.stem}") as bar:
        for number in range(TRIES):
            time.sleep(PAUSE if number else 0)
            broken = _go_on(address, part, size, bar)
            if not broken:
                break
        else:
            raise DownloadError(
                f"the connection broke after {_arrived(part) / 1e6:.1f} of {size / 1e6:.1f} MB ({broken}). "
                "What has arrived is kept, and the next try goes on from there."
            )
    if sha256(part) != digest:
        part.unlink()
        raise DownloadError(
            f"{target.name} is not the file that was expected (sha256 differs), so it was deleted. "
            "If that happens again, a proxy or a mirror changes it: try another network."
        )
    part.replace(target)
    return target


def _arrived(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _go_on(address: str, part: Path, size: int, bar) -> str:
    """Fetch what is missing of `part`; how the connection broke, or nothing where all has arrived."""
    start = _arrived(part)
    bar.update(start - bar.n)
    if start >= size:
        return ""
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=30, context=_trust()) as answer, part.open("ab") as file:
            if start and answer.status != 206:  # the server sends all of it again
                file.truncate(0)
                bar.update(-start)
                start = 0
            while data := answer.read(min(1 << 16, size - start)):
                start += file.write(data)
                bar.update(len(data))
    except HTTPError as error:
        if error.code < 500 or error.code == 501:
            raise  # it would be the same again
        return f"{error}"
    except URLError as error:
        if not _arrived(part):
            raise  # nothing has ever come from there
        return f"{error.reason}"
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        return f"{error}" or type(error).__name__
    return "" if _arrived(part) >= size else "the server hung up"


def _trust() -> ssl.SSLContext:
    """The certificates of this system, of certifi (a Python of macOS has no others), and those that pip is given."""
    import certifi

    context = ssl.create_default_context()
    for file in (certifi.where(), os.environ.get("PIP_CERT", ""), os.environ.get("REQUESTS_CA_BUNDLE", "")):
        if Path(file).is_file():
            context.load_verify_locations(file)
    return context


def proxy_of(address: str) -> str | None:
    """The proxy that is set for this address, without a password; None where there is none."""
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return re.sub(r"//[^/@]*@", "//", proxy)


def explain(error: Exception, folder: Path) -> str:
    """An error on the way to a file in `folder`, in one or two sentences: what it is, and what to do."""
    text = f"{error}".strip() or type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk of {folder} is full. What has arrived is kept. Make room there, or set SIXWEEKS_CACHE to a "
            "folder with room."
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{folder} cannot be written ({text}). Set SIXWEEKS_CACHE to a folder of yours."
    proxy = proxy_of("https://") or proxy_of("http://")
    if re.search(r"\b407\b|Proxy Authentication", text):
        how = "HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT"
        return f"the proxy {proxy} wants a name and a password ({text}). Set {how}."
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}. Does a proxy read along? Set SSL_CERT_FILE to the file with its certificate."
    unreached = isinstance(error, URLError) or "No matching distribution" in text
    if proxy and unreached and not isinstance(error, HTTPError):
        return (
            f"the proxy {proxy} does not let this through ({text}). Correct HTTPS_PROXY and HTTP_PROXY, or unset them "
            "if you need no proxy."
        )
    if isinstance(error, HTTPError):
        return f"{urlsplit(error.url or '').hostname} answers {text}"
    if unreached:
        return f"{text}. Is there a network? Connect once."
    return text
