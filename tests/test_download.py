"""Model files by name, against a real HTTP server on this machine; nothing here leaves it."""

import errno
import hashlib
import http.server
import importlib.util
import io
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dpa2_ase import download
from dpa2_ase.download import ModelDownloadError, PretrainedModel, model_path

PAYLOAD = random.Random(7).randbytes(300_000)  # several blocks, and not a whole number of them
HALF = len(PAYLOAD) // 2
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()
WRONG = bytes(len(PAYLOAD))


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the first part of the path and notes (path, Range header, body bytes sent)."""

    def do_GET(self):
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        note = [self.path, asked, 0]
        self.server.seen.append(note)
        body, status, headers = self.answer(self.path.split("/")[1], start)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        for i in range(0, len(body), 30_000):
            if self.path.startswith("/slow"):
                time.sleep(0.03)
            self.wfile.write(body[i : i + 30_000])
            note[2] += len(body[i : i + 30_000])
        if self.path.startswith("/interrupt"):
            self.server.interrupt_after(HALF - download.BLOCK)
        if self.path.startswith("/silent"):
            self.server.released.wait(5)

    def answer(self, kind, start):
        length = {"Content-Length": str(len(PAYLOAD) - start)}
        content_range = f"bytes {start}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}"
        ranged = (206, length | {"Content-Range": content_range}) if start else (200, length)
        whole = {"Content-Length": str(len(PAYLOAD))}
        if start >= len(PAYLOAD):
            return b"", 416, {"Content-Range": f"bytes */{len(PAYLOAD)}"}
        return {
            "good": (PAYLOAD[start:], *ranged),
            "slow": (PAYLOAD[start:], *ranged),
            "moved": (b"", 302, {"Location": f"http://127.0.0.1:{self.server.server_port}/good"}),
            "ignores-range": (PAYLOAD, 200, whole),
            "no-length": (PAYLOAD, 200, {}),
            "shifted": (PAYLOAD, 206, whole | {"Content-Range": f"bytes 1-{len(PAYLOAD)}/{len(PAYLOAD) + 1}"}),
            "wrong": (WRONG, 200, whole),
            "login": (b"<html>", 200, {"Content-Type": "text/html"}),
            "truncated": (PAYLOAD[start:HALF], *ranged),
            "interrupt": (PAYLOAD[start:HALF], *ranged),
            "silent": (PAYLOAD[start:HALF], *ranged),
            "broken-chunks": (b"ffff\r\nabc", 200, {"Transfer-Encoding": "chunked"}),
        }.get(kind, (b"no such file", 404, {}))

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for the handlers

    def __init__(self, part):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.part, self.released = [], part, threading.Event()

    def handle_error(self, request, client_address):
        """Clients hang up in these tests; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def interrupt_after(self, size):
        """Press Ctrl-C as soon as the client has written so many bytes."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not (self.part.exists() and self.part.stat().st_size >= size):
            time.sleep(0.005)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def url(self, kind):
        return f"http://127.0.0.1:{self.server_port}/{kind}/tiny.pt"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home folder, and none of the variables that change what is fetched from where."""
    for name in ("DPA2_ASE_CACHE", "DPA2_ASE_OFFLINE", "XDG_CACHE_HOME", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def target(home):
    return home / ".cache" / "dpa2_ase" / "models" / "tiny.pt"


@pytest.fixture
def part(target):
    target.parent.mkdir(parents=True)
    return target.with_name("tiny.pt.part")


@pytest.fixture
def server(target):
    with Server(target.with_name("tiny.pt.part")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def sources(server, monkeypatch):
    """Return a function that says which answers the sources of the model `tiny` give."""

    def use(*kinds):
        urls = tuple(kind if kind.startswith("http") else server.url(kind) for kind in kinds)
        monkeypatch.setitem(download.PRETRAINED, "Tiny", PretrainedModel("Tiny", "tiny.pt", SHA256, urls))

    return use


@pytest.fixture
def unreachable():
    """A URL at a port of this machine where nobody listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        return f"http://127.0.0.1:{closed.server_port}/tiny.pt"


def fetch(**options):
    return model_path("tiny", timeout=5.0, **options)


def leftovers(target):
    """Names in the cache folder besides the model and the two small files that belong to it."""
    return {path.name for path in target.parent.iterdir()} - {"tiny.pt", "tiny.pt.lock", "tiny.pt.verified"}


# ---- names and folders


def test_official_models_are_pinned_and_fetched_over_https():
    for name, model in download.PRETRAINED.items():
        assert name == model.name
        assert len(bytes.fromhex(model.sha256)) == 32
        assert all(url.startswith("https://") and url.endswith(model.file_name) for url in model.urls)
    hosts = [url.split("/")[2] for url in download.PRETRAINED["DPA-2.4-7M"].urls]
    assert hosts == ["huggingface.co", "hf-mirror.com", "modelscope.cn"]


def test_an_unknown_name_lists_the_known_and_the_nearest(sources):
    sources("good")
    with pytest.raises(ValueError, match=r"'dpa-2\.4' is not.*known are DPA-2\.4-7M, Tiny; did you mean 'DPA-2\.4-7M'"):
        model_path("dpa-2.4")


@pytest.mark.parametrize("name", ["tiny", "Tiny", "TINY"])
def test_a_good_source_gives_the_file(sources, server, target, name):
    sources("good")
    assert model_path(name) == target
    assert target.read_bytes() == PAYLOAD
    assert leftovers(target) == set()
    assert [note[1] for note in server.seen] == [None]


@pytest.mark.parametrize("source", ["moved", "no-length"])
def test_redirects_and_unknown_lengths_are_followed(sources, target, source):
    sources(source)
    assert fetch() == target
    assert target.read_bytes() == PAYLOAD


def test_the_cache_folder_follows_argument_then_variables(sources, tmp_path, monkeypatch):
    sources("good")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert fetch().is_relative_to(tmp_path / "home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch() == tmp_path / "xdg" / "dpa2_ase" / "models" / "tiny.pt"
    monkeypatch.setenv("DPA2_ASE_CACHE", "~/models")
    assert fetch() == tmp_path / "home" / "models" / "tiny.pt"
    assert fetch(cache=tmp_path / "argument") == tmp_path / "argument" / "tiny.pt"


def test_no_home_folder_is_a_clear_error_and_a_given_folder_suffices(sources, tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    sources("good")
    monkeypatch.setattr(download.Path, "home", no_home)
    with pytest.raises(ModelDownloadError, match=r"home directory\. Set DPA2_ASE_CACHE"):
        fetch()
    assert fetch(cache=tmp_path).read_bytes() == PAYLOAD


# ---- resuming


def test_a_part_is_continued_and_its_bytes_are_not_sent_again(sources, server, target, part):
    part.write_bytes(PAYLOAD[:HALF])
    sources("good")
    assert fetch() == target
    assert target.read_bytes() == PAYLOAD
    assert server.seen == [["/good/tiny.pt", f"bytes={HALF}-", len(PAYLOAD) - HALF]]


def test_a_server_that_ignores_the_range_sends_everything(sources, server, target, part):
    part.write_bytes(PAYLOAD[:HALF])
    sources("ignores-range")
    fetch()
    assert target.read_bytes() == PAYLOAD
    assert server.seen == [["/ignores-range/tiny.pt", f"bytes={HALF}-", len(PAYLOAD)]]


def test_a_part_that_is_too_long_is_fetched_anew(sources, server, target, part):
    part.write_bytes(PAYLOAD + b"more")
    sources("good")
    fetch()
    assert target.read_bytes() == PAYLOAD
    assert [note[1] for note in server.seen] == [f"bytes={len(PAYLOAD) + 4}-", None]


def test_a_complete_part_needs_no_network(sources, server, target, part):
    part.write_bytes(PAYLOAD)
    sources("good")
    assert fetch() == target
    assert server.seen == []


def test_a_damaged_part_is_dropped_and_the_next_source_starts_anew(sources, server, target, part):
    part.write_bytes(WRONG[:HALF])
    sources("good", "good")
    fetch()
    assert target.read_bytes() == PAYLOAD
    assert [note[1] for note in server.seen] == [f"bytes={HALF}-", None]


@pytest.mark.parametrize("source", ["shifted", "login", "missing"])
def test_an_answer_that_is_not_the_file_leaves_the_part_alone(sources, part, target, source):
    part.write_bytes(PAYLOAD[:HALF])
    sources(source)
    with pytest.raises(ModelDownloadError, match=f"expected bytes from {HALF} on|404"):
        fetch()
    assert part.read_bytes() == PAYLOAD[:HALF]
    assert not target.exists()


@pytest.mark.parametrize("source", ["truncated", "silent"])
def test_the_next_call_continues_a_truncated_body(sources, server, part, target, source):
    sources(source)
    with pytest.raises(ModelDownloadError, match=rf"ended after {HALF} of {len(PAYLOAD)} bytes|timed out"):
        model_path("tiny", timeout=1.0)
    held = part.stat().st_size
    assert HALF - download.BLOCK <= held <= HALF
    assert not target.exists()
    sources("good")
    assert fetch().read_bytes() == PAYLOAD
    assert server.seen[-1] == ["/good/tiny.pt", f"bytes={held}-", len(PAYLOAD) - held]


def test_the_next_source_continues_a_truncated_body(sources, server, target):
    sources("truncated", "good")
    assert fetch().read_bytes() == PAYLOAD
    assert server.seen[1] == ["/good/tiny.pt", f"bytes={HALF}-", len(PAYLOAD) - HALF]


def test_an_interrupt_leaves_a_part_that_the_next_call_continues(sources, server, part, target):
    sources("interrupt")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch()
    finally:
        signal.signal(signal.SIGINT, before)
    held = part.stat().st_size
    assert HALF - download.BLOCK <= held < len(PAYLOAD)
    assert part.read_bytes() == PAYLOAD[:held]
    assert not target.exists()
    sources("good")
    assert fetch().read_bytes() == PAYLOAD
    assert server.seen[-1][1] == f"bytes={held}-"


# ---- failing sources


def test_a_wrong_digest_leads_to_the_next_source(sources, target):
    sources("wrong", "good")
    assert fetch().read_bytes() == PAYLOAD


def test_a_wrong_digest_everywhere_leaves_nothing(sources, target):
    sources("wrong")
    wrong = hashlib.sha256(WRONG).hexdigest()
    with pytest.raises(ModelDownloadError, match=f"wrong/tiny.pt: sha256 is {wrong}, expected {SHA256}"):
        fetch()
    assert not target.exists()
    assert leftovers(target) == set()


def test_total_failure_says_every_reason_and_the_way_by_hand(sources, server, target, unreachable):
    sources("missing", unreachable, "http://127.0.0.1:port/", "broken-chunks")
    with pytest.raises(ModelDownloadError) as caught:
        fetch()
    message = str(caught.value)
    assert f"{server.url('missing')}: HTTP Error 404" in message
    assert f"{unreachable}: <urlopen error" in message
    assert "refused" in message
    assert "http://127.0.0.1:port/: nonnumeric port" in message
    assert "the connection broke: IncompleteRead" in message
    assert all(f"\n    {url}\n" in message for url in download.PRETRAINED["Tiny"].urls)
    assert f"\n    {target}\n" in message
    assert SHA256 in message
    assert not target.exists()


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_is_an_error_without_a_request(sources, server, target, monkeypatch, value):
    sources("good")
    monkeypatch.setenv("DPA2_ASE_OFFLINE", value)
    with pytest.raises(ModelDownloadError, match=f"DPA2_ASE_OFFLINE={value}") as caught:
        fetch()
    assert str(target) in str(caught.value)
    assert server.url("good") in str(caught.value)
    assert server.seen == []
    assert not target.parent.exists()


@pytest.mark.parametrize("value", ["", "0", "False"])
def test_offline_can_be_switched_off(sources, monkeypatch, value):
    sources("good")
    monkeypatch.setenv("DPA2_ASE_OFFLINE", value)
    assert fetch().read_bytes() == PAYLOAD


# ---- files that are already there


def test_a_cached_file_is_used_without_network_and_read_once(sources, server, target, part, monkeypatch):
    target.write_bytes(PAYLOAD)
    sources("good")
    monkeypatch.setenv("DPA2_ASE_OFFLINE", "1")
    assert fetch() == target
    monkeypatch.setattr(download, "_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert fetch() == target
    assert server.seen == []


def test_a_downloaded_file_is_not_read_again(sources, server, target, monkeypatch):
    sources("good")
    fetch()
    monkeypatch.setattr(download, "_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert fetch() == target
    assert len(server.seen) == 1


def test_a_changed_file_is_noticed_and_replaced(sources, server, target, monkeypatch):
    sources("good")
    fetch()
    target.write_bytes(WRONG)
    os.utime(target, ns=(1, 1))
    monkeypatch.setenv("DPA2_ASE_OFFLINE", "1")
    with pytest.raises(ModelDownloadError, match=f"{target}: sha256 is .*, expected {SHA256}"):
        fetch()
    monkeypatch.delenv("DPA2_ASE_OFFLINE")
    assert fetch().read_bytes() == PAYLOAD


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe nonsense", b"two words"])
def test_a_damaged_side_file_is_made_anew(sources, target, damage):
    sources("good")
    fetch()
    side = target.with_name("tiny.pt.verified")
    good = side.read_bytes()
    side.write_bytes(damage)
    assert fetch() == target
    assert side.read_bytes() == good


@pytest.mark.parametrize("content", [PAYLOAD, WRONG], ids=["right", "wrong"])
def test_the_cache_of_deepmd_is_used_if_its_digest_is_right(sources, server, home, target, content):
    foreign = home / ".cache" / "deepmd" / "pretrained" / "models" / "tiny.pt"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(content)
    sources("good")
    right = content is PAYLOAD
    assert fetch() == (foreign if right else target)
    assert len(server.seen) == (0 if right else 1)
    assert [path.name for path in foreign.parent.iterdir()] == ["tiny.pt"]


# ---- a folder that cannot be written


def test_a_home_that_cannot_be_written_is_a_clear_error(sources, home):
    home.write_text("a file, where not even the superuser can make a folder")
    sources("good")
    with pytest.raises(ModelDownloadError, match=r"cannot write to .*models: .*set DPA2_ASE_CACHE"):
        fetch()


def test_a_read_only_cache_still_gives_its_file(sources, target, part, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError("read-only")

    target.write_bytes(PAYLOAD)
    sources("good")
    monkeypatch.setattr(download.Path, "write_text", refuse)
    assert fetch() == target


def test_a_file_size_limit_keeps_the_part_for_later(sources, server, target, part):
    sources("good", "good")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, hard))
    try:
        with pytest.raises(ModelDownloadError, match=r"cannot write to .* File too large; free space"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(server.seen) == 1  # another source would not help
    assert part.read_bytes() == PAYLOAD[: part.stat().st_size]
    assert not target.exists()
    assert fetch().read_bytes() == PAYLOAD


def test_a_full_disk_says_so(sources, target, part, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sources("good", "good")
    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(ModelDownloadError, match="No space left on device; free space"):
        fetch()
    assert part.exists()
    assert not target.exists()


# ---- several at once

CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("download", sys.argv[1])
sys.modules["download"] = download = importlib.util.module_from_spec(spec)
spec.loader.exec_module(download)
download.PRETRAINED["Tiny"] = download.PretrainedModel("Tiny", "tiny.pt", sys.argv[2], (sys.argv[3],))
print(download.model_path("tiny"))
"""


def test_processes_at_once_download_once(server, target):
    command = [sys.executable, "-W", "error", "-c", CHILD, download.__file__, SHA256, server.url("slow")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        assert child.communicate(timeout=30) == (f"{target}\n", "")
        assert child.returncode == 0
    assert target.read_bytes() == PAYLOAD
    assert leftovers(target) == set()
    assert len(server.seen) == 1


def in_threads(count):
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_at_once_download_once(sources, server, target):
    sources("slow")
    assert in_threads(4) == [target] * 4
    assert target.read_bytes() == PAYLOAD
    assert len(server.seen) == 1


def test_without_locks_everybody_has_a_part_of_his_own(sources, server, target, monkeypatch):
    monkeypatch.setattr(download, "fcntl", None)
    sources("slow")
    assert in_threads(3) == [target] * 3
    assert target.read_bytes() == PAYLOAD
    assert leftovers(target) == set()


def test_a_file_system_that_refuses_locks_is_not_in_the_way(sources, target, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(download.fcntl, "flock", refuse)
    sources("good")
    assert fetch().read_bytes() == PAYLOAD
    assert leftovers(target) == set()


def test_a_holder_of_the_lock_without_progress_is_not_waited_for(sources, target, part, monkeypatch):
    part.write_bytes(WRONG[:HALF])
    sources("good")
    monkeypatch.setattr(download, "PATIENCE", 0.01)
    with target.with_name("tiny.pt.lock").open("ab") as lock:
        download.fcntl.flock(lock, download.fcntl.LOCK_EX)
        assert fetch().read_bytes() == PAYLOAD
    assert leftovers(target) == {"tiny.pt.part"}  # the holder's
    assert part.read_bytes() == WRONG[:HALF]


def test_the_lock_of_a_dead_process_is_free(sources, target, part):
    hold = "import fcntl, os, sys; fcntl.flock(open(sys.argv[1], 'ab'), fcntl.LOCK_EX); os._exit(1)"
    subprocess.run([sys.executable, "-c", hold, target.with_name("tiny.pt.lock")], check=False)
    part.write_bytes(PAYLOAD[:HALF])
    sources("good")
    assert fetch() == target
    assert leftovers(target) == set()


def test_the_module_imports_where_locks_do_not_exist(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("download_on_windows", download.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "download_on_windows", module)
    spec.loader.exec_module(module)
    assert module.fcntl is None


# ---- what is printed


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_printed_where_stderr_is_no_terminal(sources, capsys):
    sources("wrong", "good")
    fetch()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [None, False])
def test_a_terminal_gets_a_bar_on_stderr_only(sources, capsys, monkeypatch, progress):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    sources("good")
    fetch(progress=progress)
    assert ("Tiny" in terminal.getvalue()) == (progress is None)
    assert capsys.readouterr().out == ""


def test_a_bar_can_be_demanded(sources, part, capsys):
    part.write_bytes(PAYLOAD[:HALF])
    sources("good")
    fetch(progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "300.0/300.0 kB" in err  # the resumed bytes count


def test_a_missing_stderr_is_no_terminal(sources, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    sources("good")
    assert Path(fetch()).exists()


def test_the_module_needs_neither_torch_nor_rich_until_it_draws():
    code = CHILD.rsplit("download.PRETRAINED", maxsplit=1)[0] + "print({'torch', 'rich'} & set(sys.modules))"
    command = [sys.executable, "-c", code, download.__file__]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"
