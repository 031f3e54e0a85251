"""Downloads, against a server on the loopback that misbehaves as told."""
import concurrent.futures
import hashlib
import http.client
import http.server
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest
from file_server import DATA, OTHER, sha256

from utils import download as module
from utils.download import DownloadError, download
from utils.runtime import UserError

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "weights" / "file.pth")


def content(path):
    return Path(path).read_bytes()


def files_beside(path):
    folder = os.path.dirname(path)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def fails(server, path, message, **options):
    """Download and expect a DownloadError: one line that holds `message`, the address and the path."""
    url = f"{server.address}/file.pth"
    with pytest.raises(DownloadError, match=message) as caught:
        download(url, path, bar=False, **options)
    text = str(caught.value)
    assert url in text and path in text and "by hand" in text and "\n" not in text
    assert not os.path.exists(path)
    return text


def fetch(server, path, **options):
    assert download(f"{server.address}/file.pth", path, **{"bar": False, **options}) == str(path)


def ranges(server):
    return [asked for _, asked in server.seen]


def leave_part(server, path, size):
    """What an interrupted download of DATA leaves."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path + ".part").write_bytes(DATA[:size])
    version = {"url": f"{server.address}/file.pth", "tag": '"v1"', "size": len(DATA)}
    Path(path + ".part.json").write_text(json.dumps(version))


def test_a_file_arrives_whole_and_leaves_nothing_else(server, path):
    fetch(server, path, sha256=sha256(DATA).upper(), md5=hashlib.md5(DATA).hexdigest())
    assert content(path) == DATA
    assert files_beside(path) == ["file.pth"]
    assert ranges(server) == [None]
    assert server.agents == [module.USER_AGENT]


def test_a_file_that_is_there_makes_no_request(server, path):
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(b"mine")
    fetch(server, path, sha256="0" * 64)
    assert content(path) == b"mine" and server.seen == [] and files_beside(path) == ["file.pth"]


def test_a_path_object_will_do(server, tmp_path):
    fetch(server, tmp_path / "file.pth")
    assert content(tmp_path / "file.pth") == DATA


def test_the_bar_counts_bytes_and_can_be_hidden(server, path, capsys, monkeypatch):
    server.script = [("cut", 200_000)]
    fetch(server, path, bar=True)
    drawn = capsys.readouterr().err
    assert "200k/600k" in drawn and "600k/600k" in drawn and "file.pth" in drawn
    for bar, terminal in ((False, True), (None, False), (None, True)):  # None: only on a terminal
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=terminal: answer)
        os.remove(path)
        fetch(server, path, bar=bar)
        assert ("600k/600k" in capsys.readouterr().err) == (bar is None and terminal)


def test_a_connection_that_ends_early_continues_where_it_stopped(server, path):
    server.script = [("cut", 200_000), ("cut", 150_000)]
    fetch(server, path, sha256=sha256(DATA))
    assert content(path) == DATA
    assert ranges(server) == [None, "bytes=200000-", "bytes=350000-"]


def test_a_connection_that_breaks_continues(server, path):
    server.script = [("reset", 200_000)]
    fetch(server, path)
    assert content(path) == DATA
    first, second = ranges(server)
    assert first is None and re.fullmatch(r"bytes=[1-9]\d*-", second)  # a break may cost bytes that had arrived


def test_a_body_that_stays_short_is_an_error_and_its_part_stays(server, path):
    server.script = [("cut", 1000)] * 4
    fails(server, path, "596000 bytes too early")
    assert ranges(server) == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert content(path + ".part") == DATA[:4000]


def test_failures_with_progress_in_between_do_not_add_up(server, path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 50_000)
    server.script = [("cut", 60_000)] * 9
    fetch(server, path)
    assert content(path) == DATA and len(server.seen) == 10


def test_pauses_grow(server, path, monkeypatch):
    paused = []
    monkeypatch.setattr(module.time, "sleep", paused.append)
    server.script = [("status", 503)] * 3
    fetch(server, path)
    assert paused == list(module.PAUSES)


def test_a_server_without_ranges_starts_anew(server, path):
    server.ranges = False
    server.script = [("cut", 200_000)]
    fetch(server, path, sha256=sha256(DATA))
    assert content(path) == DATA and ranges(server) == [None, "bytes=200000-"]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_hash_deletes_what_arrived(server, path, kind):
    wanted = hashlib.new(kind, OTHER).hexdigest()
    text = fails(server, path, "was deleted", **{kind: wanted})
    assert wanted in text and hashlib.new(kind, DATA).hexdigest() in text
    assert files_beside(path) == []


def redirect(server, **headers):
    return ("redirect", {"Location": f"{server.address}/cdn", **{n.replace("_", "-"): v for n, v in headers.items()}})


def test_the_hash_announced_by_a_redirect_is_checked(server, path):
    server.etag = '"' + "0" * 64 + '"'  # that of the last answer is no hash
    server.script = [redirect(server, X_Linked_Etag=f'"{sha256(DATA)}"', X_Linked_Size=str(len(DATA)))]
    fetch(server, path)
    assert content(path) == DATA and [name for name, _ in server.seen] == ["/file.pth", "/cdn"]
    os.remove(path)
    server.script = [redirect(server, X_Linked_Etag=f'"{sha256(OTHER)}"', X_Linked_Size=str(len(DATA)))]
    fails(server, path, f"not {sha256(OTHER)}, and was deleted")
    server.script = [redirect(server, X_Linked_Etag=f'"{sha256(DATA)}"', X_Linked_Size="5")]
    fails(server, path, "sends 600000 bytes where 5 were announced")


def test_a_download_through_a_redirect_continues_although_the_cdn_names_the_file_otherwise(server, path):
    announce = redirect(server, X_Linked_Etag=f'"{sha256(DATA)}"', X_Linked_Size=str(len(DATA)))
    server.script = [announce, ("cut", 100_000), announce]
    server.etag = None
    fetch(server, path)
    assert content(path) == DATA
    assert server.seen[2:] == [("/file.pth", "bytes=100000-"), ("/cdn", "bytes=100000-")]


def test_a_size_that_only_the_redirect_tells_is_checked(server, path):
    server.length = False
    server.script = [redirect(server, X_Linked_Size=str(len(DATA))), ("cut", 100_000),
                     redirect(server, X_Linked_Size=str(len(DATA)))]
    fetch(server, path)
    assert content(path) == DATA and len(server.seen) == 4


def test_a_file_of_untold_size_is_refused(server, path):
    server.length = False
    fails(server, path, "does not tell the size")


def test_encryption_is_not_lost_on_the_way():
    request = module.urllib.request.Request("https://huggingface.co/file")
    arguments = (request, None, 302, "Found", http.client.HTTPMessage())
    follow = module._Redirects(request.full_url).redirect_request
    assert follow(*arguments, "https://cdn.example/file").full_url == "https://cdn.example/file"
    with pytest.raises(urllib.error.URLError, match="not encrypted"):
        follow(*arguments, "http://cdn.example/file")


@pytest.mark.parametrize("status, attempts", [(404, 1), (403, 1), (500, 4), (429, 4)])
def test_an_error_of_the_server(server, path, status, attempts):
    server.script = [("status", status)] * 9
    fails(server, path, f"answers {status} ")
    assert len(server.seen) == attempts


def test_an_error_of_the_server_that_passes(server, path):
    server.script = [("status", 500), ("status", 503)]
    fetch(server, path)
    assert content(path) == DATA


def test_a_web_page_is_no_file(server, path):
    server.content_type = "text/html; charset=utf-8"
    leave_part(server, path, 1000)  # a hotel's log-in page must not cost what is there
    fails(server, path, "a web page, not a file")
    assert content(path + ".part") == DATA[:1000]


@pytest.mark.parametrize("script", [[("stall", None)], [("wait", 1000)]])
def test_a_server_that_stalls(server, path, monkeypatch, script):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    monkeypatch.setattr(module, "PAUSES", (0.01,))
    server.script = script * 2
    started = time.monotonic()
    fails(server, path, "timed out")
    assert time.monotonic() - started < 3 and len(server.seen) == 2


def test_a_slow_server_is_waited_for(server, path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    server.script = [("dribble", 6000)]  # more than a second in all
    fetch(server, path)
    assert content(path) == DATA and len(server.seen) == 1


def test_a_part_that_lacks_only_the_renaming_asks_for_one_byte(server, path):
    leave_part(server, path, len(DATA))
    fetch(server, path)
    assert content(path) == DATA and ranges(server) == ["bytes=599999-"]


def test_a_part_longer_than_the_file_now_is_starts_anew(server, path):
    leave_part(server, path, 500_000)
    server.data, server.etag = OTHER[:300_000], '"v2"'
    fetch(server, path)
    assert content(path) == OTHER[:300_000] and ranges(server) == ["bytes=500000-", None]  # after a 416


@pytest.mark.parametrize("change", [{"etag": '"v2"'}, {"etag": None}, {"etag": 'W/"v1"'},
                                    {"data": DATA + b"more"}, {"etag": None, "extra": {"Last-Modified": "Monday"}}])
def test_a_file_that_changed_between_attempts_is_not_mixed(server, path, change):
    server.script = [("cut", 200_000)]
    with pytest.raises(DownloadError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAUSES", ())
        download(f"{server.address}/file.pth", path, bar=False)
    server.data = OTHER
    for name, value in change.items():
        setattr(server, name, value)
    fetch(server, path)
    assert content(path) == server.data and ranges(server) == [None, "bytes=200000-", None]


@pytest.mark.parametrize("note", [None, "{", "[]", "{}", '{"tag": null, "size": 600000}', '{"tag": "x", "size": null}'])
def test_a_part_of_unknown_origin_is_not_continued(server, path, note):
    leave_part(server, path, 1000)
    if note is None:
        os.remove(path + ".part.json")
    else:
        Path(path + ".part.json").write_text(note)
    server.data = OTHER
    fetch(server, path)
    assert content(path) == OTHER and ranges(server) == [None]


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_a_part_of_a_file_without_version_is_not_continued(server, path, etag):
    server.etag = etag
    server.script = [("cut", 1000)]
    fetch(server, path)
    assert content(path) == DATA and ranges(server) == [None, None]


def test_another_range_than_the_one_asked_for_is_not_taken(server, path):
    leave_part(server, path, 1000)
    server.extra = {"Content-Range": "bytes 999-599999/600000"}
    fetch(server, path)
    assert content(path) == DATA and ranges(server) == ["bytes=1000-", None]


def test_no_server_is_told_at_once(server, path, monkeypatch):
    paused = []
    monkeypatch.setattr(module.time, "sleep", paused.append)
    server.shutdown()
    server.server_close()
    text = fails(server, path, r"cannot reach 127\.0\.0\.1:\d+ \(.*refused")
    assert text.endswith(f"download {server.address}/file.pth by hand and put it at {path}")
    assert files_beside(path) == []
    assert paused == [] and issubclass(DownloadError, UserError)


def test_a_server_that_vanishes_in_the_middle_is_tried_again(server, path):
    server.script = [("cut", 1000)]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound but not listening: refuses
        real, calls = module._open, []

        def open_(url, start):
            calls.append(start)
            return real(url if len(calls) != 2 else f"http://127.0.0.1:{nobody.getsockname()[1]}/", start)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_open", open_)
            fetch(server, path)
    assert content(path) == DATA and calls == [0, 1000, 1000]


def test_a_proxy_of_the_environment_is_used(server, path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    download("http://weights.example/file.pth", path, bar=False)
    assert content(path) == DATA and server.seen == [("http://weights.example/file.pth", None)]


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "weights").write_text("a file where the folder should be")
    text = fails(server, str(tmp_path / "weights" / "file.pth"), "cannot write .*(Not a directory|File exists)")
    assert "choose a folder" in text and server.seen == []


def test_a_folder_that_may_not_be_written(server, tmp_path):
    tmp_path.chmod(0o500)
    root = os.geteuid() == 0  # who may write everywhere
    try:
        if root:
            os.seteuid(65534)
        fails(server, str(tmp_path / "file.pth"), "cannot write .*Permission denied")
    finally:
        if root:
            os.seteuid(0)
    assert server.seen == []


def test_a_full_disk_is_one_clear_sentence_and_keeps_the_part(server, path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # stands for the full disk: writing fails
    try:
        fails(server, path, "cannot write .*too large.*free space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(server.seen) == 1  # an error of the disk is not one of the network: no second attempt
    kept = len(content(path + ".part"))
    assert 0 < kept <= 300_000
    fetch(server, path)
    assert content(path) == DATA and ranges(server)[1:] == [f"bytes={kept}-"]


def process(server, path):
    """A process that downloads; it ends with status 0 or its error."""
    code = ("import signal, sys; from utils import download as module; module.PAUSES = (0.01,)\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background\n"
            "module.download(sys.argv[1], sys.argv[2], bar=False)")
    return subprocess.Popen([sys.executable, "-c", code, f"{server.address}/file.pth", path], cwd=REPO,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_ctrl_c_keeps_the_part_and_only_the_rest_is_fetched(server, path):
    server.script = [("wait", 200_000)]
    running = process(server, path)
    assert server.reached.wait(60)
    deadline = time.monotonic() + 5
    while os.path.getsize(path + ".part") < 190_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in running.communicate(timeout=20)[1] and running.returncode != 0
    assert files_beside(path) == ["file.pth.part", "file.pth.part.json"]
    kept = len(content(path + ".part"))
    assert 190_000 <= kept <= 200_000 and content(path + ".part") == DATA[:kept]
    fetch(server, path)
    assert content(path) == DATA and ranges(server) == [None, f"bytes={kept}-"]


def wait_for_log(caplog, text, count):
    deadline = time.monotonic() + 5
    while caplog.text.count(text) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert caplog.text.count(text) == count


# flock keeps two openings of a file apart also within one process, so that threads will do here.
def test_downloads_at_the_same_time_are_one(server, path, caplog):
    server.script = [("wait", 200_000)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        downloads = [pool.submit(fetch, server, path)]
        assert server.reached.wait(10)
        downloads += [pool.submit(fetch, server, path) for _ in range(3)]
        wait_for_log(caplog, "another process is downloading", 3)
        server.gate.set()
        for each in downloads:
            each.result(10)
    assert content(path) == DATA and files_beside(path) == ["file.pth"]
    assert ranges(server) == [None]


def test_who_waited_goes_on_when_the_other_deletes_a_wrong_file(server, path, caplog):
    server.script = [("wait", 200_000)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        wrong = pool.submit(fails, server, path, "was deleted", sha256="0" * 64)
        assert server.reached.wait(10)
        right = pool.submit(fetch, server, path)
        wait_for_log(caplog, "another process is downloading", 1)
        server.gate.set()
        right.result(10)
        assert isinstance(wrong.exception(10), (AssertionError, type(None)))  # the other one's file may be there
    assert content(path) == DATA and files_beside(path) == ["file.pth"] and ranges(server) == [None, None]


def test_who_waited_goes_on_when_the_other_is_killed(server, path, caplog):
    server.script = [("wait", 200_000)]
    first = process(server, path)
    assert server.reached.wait(60)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        second = pool.submit(fetch, server, path)
        wait_for_log(caplog, "another process is downloading", 1)
        first.kill()  # the lock ends with the process, however that ends
        first.communicate(timeout=20)
        second.result(10)
    assert content(path) == DATA and files_beside(path) == ["file.pth"] and len(server.seen) == 2


def test_another_process_that_finishes_just_before_the_lock(server, path, monkeypatch):
    real = module.fcntl.flock

    def flock(file, flags):
        Path(path).write_bytes(b"theirs")
        real(file, flags)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    fetch(server, path)
    assert content(path) == b"theirs" and files_beside(path) == ["file.pth"] and server.seen == []
