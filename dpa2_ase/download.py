"""Official model files by name: downloaded once, verified by sha256, kept in a cache folder.

The folder is ``$DPA2_ASE_CACHE`` if that is set, otherwise ``dpa2_ase/models`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
Beside ``<model>`` it holds ``<model>.part`` (an unfinished download), ``<model>.lock`` (an empty file that the
downloading process locks) and ``<model>.verified`` (the stamp of the last file whose sha256 was right).
``DPA2_ASE_OFFLINE=1`` forbids downloads. All variables are read at every call.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # the way to say that a module is missing

BLOCK = 1 << 16  # bytes read at once; at most this much is lost when a download stops
PATIENCE = 4  # timeouts without progress after which the process that holds the lock counts as stalled


class ModelDownloadError(OSError):
    """No verified model file; the message holds every reason and the way to get the file by hand."""


class _SourceError(Exception):
    """A source failed and the next one may not; a plain ``OSError`` during a download comes from the cache folder."""


@dataclass(frozen=True)
class PretrainedModel:
    """One official model file."""

    name: str  # what a user writes, in any case
    file_name: str  # in the cache folder
    sha256: str  # hexadecimal, of the whole file
    urls: tuple[str, ...]  # sources of the same bytes, in the order in which they are tried


PRETRAINED: dict[str, PretrainedModel] = {
    "DPA-2.4-7M": PretrainedModel(
        name="DPA-2.4-7M",
        file_name="DPA-2.4-7M-patched-mt.pt",
        sha256="904eb5560af9ff644347dedd3ebf1e9c97929d02ee37ce3cbe895de3df711198",
        urls=(
            "https://huggingface.co/deepmodelingcommunity/DPA-2.4-7M/resolve/main/DPA-2.4-7M-patched-mt.pt",
            "https://hf-mirror.com/deepmodelingcommunity/DPA-2.4-7M/resolve/main/DPA-2.4-7M-patched-mt.pt",
            "https://modelscope.cn/models/DeepModelingCommunity/DPA-2.4-7M/resolve/master/DPA-2.4-7M-patched-mt.pt",
        ),
    ),
}


def model_path(name: str, *, cache: Path | None = None, progress: bool | None = None, timeout: float = 30.0) -> Path:
    """Return the verified local file of a pretrained model, downloading it if necessary.

    A file with the right sha256 in DeePMD-kit's own cache is used where it lies; a file in the cache folder with a
    wrong sha256 is replaced. The next call continues an interrupted download; several processes may call at once.

    Parameters
    ----------
    name
        A key of ``PRETRAINED``, in any case.
    cache
        Folder of the model files instead of the one described at the top of this module.
    progress
        Whether to draw a bar on stderr; ``None`` draws it if stderr is a terminal.
    timeout
        Longest silence of a server before the next source is tried, in s.

    Raises
    ------
    ValueError
        If no pretrained model has this name.
    ModelDownloadError
        If downloads are forbidden, every source failed, or the cache folder cannot be written.
    """
    model = _look_up(name)
    target = _models_folder(cache) / model.file_name
    path, reasons = _find_local(model, target)
    if path is not None:
        return path
    offline = os.environ.get("DPA2_ASE_OFFLINE", "")
    if offline.lower() not in ("", "0", "false", "no", "off"):
        raise _failure(model, target, [*reasons, f"downloads are forbidden by DPA2_ASE_OFFLINE={offline}"])
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    try:
        with _reserve_part(target, PATIENCE * timeout) as part:
            path, _ = _find_local(model, target)  # another process may have finished while this one waited
            if path is not None:
                return path
            for url in model.urls:
                try:
                    _complete(part, url, model, timeout, progress)
                except _SourceError as error:
                    reasons.append(f"{url}: {error}")
                else:
                    os.replace(part, target)
                    _remembered_sha256(target, _beside(target, ".verified"))
                    return target
    except OSError as error:
        advice = "free space there or set DPA2_ASE_CACHE to another writable folder"
        raise _failure(model, target, [*reasons, f"cannot write to {target.parent}: {error}; {advice}"]) from error
    raise _failure(model, target, reasons)


def _look_up(name: str) -> PretrainedModel:
    known = {key.lower(): model for key, model in PRETRAINED.items()}
    if name.lower() in known:
        return known[name.lower()]
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"{name!r} is not a pretrained model; known are {', '.join(PRETRAINED)}; "
        f"did you mean {known[nearest].name!r}? To use a file of your own, give its path"
    )


def _models_folder(cache: Path | None) -> Path:
    """Return the absolute cache folder, which need not exist yet."""
    chosen = cache or os.environ.get("DPA2_ASE_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = shared if shared.is_absolute() else Path.home() / ".cache"  # XDG says to ignore relative paths
    except RuntimeError as error:
        raise ModelDownloadError(f"no folder for model files: {error} Set DPA2_ASE_CACHE to a writable one") from error
    return base / "dpa2_ase" / "models"


def _failure(model: PretrainedModel, target: Path, reasons: list[str]) -> ModelDownloadError:
    lines = [f"model {model.name} is not available:", *(f"  - {reason}" for reason in reasons)]
    lines += ["to install it by hand, fetch one of", *(f"    {url}" for url in model.urls)]
    lines += ["and save it as", f"    {target}", f"(sha256 {model.sha256})"]
    return ModelDownloadError("\n".join(lines))


def _find_local(model: PretrainedModel, target: Path) -> tuple[Path | None, list[str]]:
    """Return an existing verified file, or ``None`` and what is wrong with those that exist."""
    candidates, problems = [target], []
    with suppress(RuntimeError):  # no home folder
        candidates.append(Path.home() / ".cache" / "deepmd" / "pretrained" / "models" / model.file_name)
    for path in candidates:
        try:
            found = _remembered_sha256(path, _beside(target, ".verified"))
            if found == model.sha256:
                return path, []
            problems.append(f"{path}: sha256 is {found}, expected {model.sha256}")
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{path}: {error}")
    return None, problems


def _remembered_sha256(path: Path, memory: Path) -> str:
    """Return the digest of a file; one of unchanged size and time is not read again."""
    status = path.stat()
    state = f"{status.st_size} {status.st_mtime_ns} {path}"
    with suppress(OSError, ValueError):
        digest, known = memory.read_text(encoding="utf-8").split(" ", maxsplit=1)
        if known == state:
            return digest
    digest = _sha256(path)
    with suppress(OSError, ValueError):  # a folder that cannot be written costs one reading per start, nothing else
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(f"{digest} {state}", encoding="utf-8")
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


@contextmanager
def _reserve_part(target: Path, patience: float) -> Iterator[Path]:
    """Yield a part file that nobody else writes.

    It is the shared, resumable one as soon as its lock is free; the system frees the lock of a process that died.
    It is a private one, deleted in the end, where locks do not exist (Windows, some cluster file systems) or if the
    holder made no progress for `patience` seconds.
    """
    shared = _beside(target, ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target, ".lock").open("ab") as lock:
        if _acquire(lock, shared, patience):
            try:
                yield shared
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough if a forked child still has the file open
            return
    private = _beside(target, f".{uuid.uuid4().hex}.part")
    try:
        yield private
    finally:
        private.unlink(missing_ok=True)


def _acquire(lock: BinaryIO, part: Path, patience: float) -> bool:
    """Wait for the lock as long as `part` keeps changing; return whether it was given."""
    last, since = -1, time.monotonic()
    while fcntl is not None and time.monotonic() - since <= patience:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # this file system has no locks
            return False
        with suppress(OSError):  # there is no part before the first and after the last byte
            if (size := part.stat().st_size) != last:
                last, since = size, time.monotonic()
    return False


def _complete(part: Path, url: str, model: PretrainedModel, timeout: float, progress: bool) -> None:
    """Continue `part` from `url` until it is the whole file; a whole file with a wrong sha256 is deleted."""
    part.touch()
    if _sha256(part) == model.sha256:  # stopped between the last byte and the renaming
        return
    response, start = _open(url, part.stat().st_size, timeout)
    with response, part.open("ab") as file:
        file.truncate(start)
        total = None if response.length is None else start + response.length
        with _bar(progress, model.name, start, total) as advance:
            while block := _read(response):
                file.write(block)
                advance(len(block))
        file.flush()
        os.fsync(file.fileno())  # a power cut must not leave a hole under the final name
    size = part.stat().st_size
    if total is not None and size < total:
        raise _SourceError(f"the connection ended after {size} of {total} bytes")
    if (found := _sha256(part)) != model.sha256:
        part.unlink()
        raise _SourceError(f"sha256 is {found}, expected {model.sha256}")


def _open(url: str, start: int, timeout: float) -> tuple[HTTPResponse, int]:
    """Ask for the bytes from `start` on; return the answer and the position in the file where its body begins."""
    headers = {"User-Agent": "dpa2_ase"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the part is not a beginning of this file
            return _open(url, 0, timeout)
        raise _SourceError(str(error)) from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: malformed proxy or redirect
        raise _SourceError(str(error) or type(error).__name__) from error
    kind, given = response.headers.get_content_type(), response.headers.get("Content-Range", "")
    if response.status == 206 and given.startswith(f"bytes {start}-"):
        return response, start
    if response.status == 200 and kind != "text/html":  # the log-in page of a network is no model
        return response, 0
    response.close()
    raise _SourceError(f"expected bytes from {start} on, got status {response.status}, {kind}, range {given!r}")


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(BLOCK)
    except (OSError, HTTPException) as error:
        raise _SourceError(f"the connection broke: {str(error) or type(error).__name__}") from error


@contextmanager
def _bar(shown: bool, label: str, start: int, total: int | None) -> Iterator[Callable[[int], object]]:
    """Draw a progress bar in bytes on stderr and yield the function that advances it."""
    if not shown:
        yield lambda count: None
        return
    from rich import console, progress

    columns = ("{task.description}", progress.BarColumn(), progress.DownloadColumn(), progress.TimeRemainingColumn())
    with progress.Progress(
        *columns, console=console.Console(stderr=True), redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(label, total=total, completed=start)
        yield lambda count: bar.advance(task, count)
