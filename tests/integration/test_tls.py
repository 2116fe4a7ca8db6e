"""deploy/nginx.conf as it stands, in front of a stand-in and of a real site."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import real_sites
from certificates import Authority
from real_sites import ADA_PASSWORD, free_port, fresh

import fedrec
from fedrec.demo.sites import SCIENTIST, SiteProcess, Sites
from fedrec.errors import Refused, Unreachable
from fedrec.scientist.line import Line

CONF = Path(__file__).parents[2] / "deploy" / "nginx.conf"
HOST = "localhost"
Front = Callable[..., int]


class Site(http.server.BaseHTTPRequestHandler):
    """Says which call reached it, and how long its body was."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        body = f"{self.command} {self.path} {length}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = answer

    def log_message(self, *given: object) -> None: ...


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The machine's nginx; else Debian's, unpacked into a folder of its own and installed nowhere."""
    if found := shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"):
        return found
    folder = tmp_path_factory.mktemp("nginx")
    for package in ("nginx", "nginx-core", "nginx-light"):
        subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, check=False)
        for file in folder.glob(f"{package}_*.deb"):
            subprocess.run(["dpkg", "-x", file, folder], check=True)
        if (program := folder / "usr" / "sbin" / "nginx").exists():
            return str(program)
    pytest.fail("this test needs nginx: apt-get update && apt-get install nginx-light")


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ca")


@pytest.fixture
def front(nginx: str, ca: Authority, tmp_path: Path) -> Iterator[Front]:
    """front(port of the site) → port of an nginx with deploy/nginx.conf, in which only HERE's values are other ones."""
    started: list[subprocess.Popen[bytes]] = []

    def start(site: int, host: str = HOST, days: int = 5) -> int:
        port, (certificate, key) = free_port(), ca.server("site", host=host, days=days)
        text = CONF.read_text()
        for old, new in (
            ("127.0.0.1:8080", f"127.0.0.1:{site}"), ("listen 443", f"listen 127.0.0.1:{port}"), ("site.example", host),
            ("/etc/fedrec/tls/site.pem", certificate), ("/etc/fedrec/tls/site.key", key),
            ("/var/log/nginx/fedrec.log", tmp_path / "access.log"),
        ):  # fmt: skip
            assert text.count(old) == 1, old
            text = text.replace(old, str(new))
        (tmp_path / "fedrec.conf").write_text(text)
        places = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = f"daemon off;\nmaster_process off;\npid {tmp_path}/pid;\nevents {{}}\n"
        (tmp_path / "nginx.conf").write_text(f"{main}http {{\n{places}include {tmp_path}/fedrec.conf;\n}}\n")
        errors = tmp_path / "error.log"
        process = subprocess.Popen([nginx, "-p", str(tmp_path), "-e", str(errors), "-c", str(tmp_path / "nginx.conf")])
        started.append(process)
        for _ in range(200):
            assert process.poll() is None, errors.read_text()
            if (tmp_path / "pid").exists() and real_sites.answers(port):
                return port
            time.sleep(0.05)
        raise AssertionError("nginx did not start")

    yield start
    for process in started:
        process.terminate()
        process.wait(10)


@pytest.fixture
def stand_in() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_a_sites_own_routes_reach_it(front, ca, stand_in, tmp_path):
    from fedrec.institution import app

    line = Line("a", f"https://{HOST}:{front(stand_in)}", ca.pem)
    inside = {"/fedrec/v1/recommend"}  # for the institution's own applications
    paths = set(re.findall(r'Route\("([^"]+)"', Path(app.__file__).read_text())) - inside
    assert len(paths) >= 7
    for path in paths:
        target = re.sub(r"\{[^}]*\}", "ab", path)
        assert line.call("GET", f"{target}?wait=25").body.decode() == f"GET {target}?wait=25 0"
    for path in (
        "/",
        "/docs",
        "/openapi.json",
        "/api/v2/register",
        "/api/v2/stream/x/y",
        "/api/v2/metadata/x",
        "/fedrec/v2/x",
        *inside,
    ):
        assert line.call("GET", path).status == 404, path
    line.call("GET", "/api/v2/api?verify_key=canary-key")
    line.close()
    time.sleep(0.1)
    log = (tmp_path / "access.log").read_text()
    assert "GET /api/v2/api 200" in log
    assert "canary" not in log
    assert "127.0.0.1" not in log


def test_bodies_are_as_long_as_a_site_reads_and_no_longer(front, ca, stand_in):
    line = Line("a", f"https://{HOST}:{front(stand_in)}", ca.pem)
    assert line.call("POST", "/api/v2/api_call", bytes(2_000_000)).status == 200
    assert line.call("PUT", "/fedrec/v1/blobs/ab", bytes(30_000_000)).body == b"PUT /fedrec/v1/blobs/ab 30000000"
    assert line.call("POST", "/api/v2/api_call", bytes(2_200_000)).status == 413


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"host": "elsewhere.example"}, "Hostname mismatch, certificate is not valid for 'localhost'"),
        ({"days": -1}, "certificate has expired"),
    ],
)
def test_a_wrong_certificate_is_refused_before_a_password_is_sent(front, ca, stand_in, bad, says):
    with pytest.raises(Refused) as refused:
        Line("a", f"https://{HOST}:{front(stand_in, **bad)}", ca.pem).call("POST", "/api/v2/login", b"canary")
    assert str(refused.value) == f"site.tls: a: its certificate is refused: {says}. Check its url and FEDREC_CA_FILE"


@pytest.mark.sites
def test_a_whole_run_goes_through_the_proxy_and_gives_the_same_model(
    front: Front, ca: Authority, solo: Sites, site: SiteProcess, alone, its_owner, tmp_path: Path, monkeypatch
):
    monkeypatch.delenv("FEDREC_CA_FILE", raising=False)
    port = front(int(site.url.rpartition(":")[2]))
    folder = tmp_path / "consortium"
    folder.mkdir()
    shutil.copy(solo.work / "items.csv", folder)
    shutil.copy(ca.pem, folder / "ca.pem")
    text = solo.consortium.read_text().replace(site.url, f"https://{HOST}:{port}")
    (folder / "consortium.toml").write_text(f'ca = "ca.pem"\n{text}')

    federation = fedrec.connect(folder / "consortium.toml", SCIENTIST, ADA_PASSWORD)
    plan = fresh(runs=2)
    real_sites.approved(federation, its_owner, plan)
    assert federation.train(plan).model_sha256 == alone.train(plan).model_sha256

    (folder / "consortium.toml").write_text(text)  # the control: without the authority's file nobody logs in
    with pytest.raises(Unreachable, match="solo: its certificate is refused: unable to get local issuer certificate"):
        fedrec.connect(folder / "consortium.toml", SCIENTIST, ADA_PASSWORD)
