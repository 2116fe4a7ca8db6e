"""A line over https: own authority, host and date checked, bytes on the wire counted, one clear line when refused."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority

from fedrec.errors import Refused, Unreachable
from fedrec.scientist.line import Line

BODY = bytes(range(256)) * 8000  # 2 MB


class Echo(http.server.BaseHTTPRequestHandler):
    """Sends back what it got; /cut stops in the middle of an answer, /bye ends the line after it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(body)
        self.close_connection = self.path == "/bye"

    def log_message(self, *given: object) -> None: ...


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None: ...


@contextlib.contextmanager
def served(certificate: tuple[Path, Path] | None) -> Iterator[int]:
    server = Server(("127.0.0.1", 0), Echo)
    if certificate is not None:
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.load_cert_chain(*certificate)
        server.socket = own.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(autouse=True)
def _no_ca(monkeypatch):
    monkeypatch.delenv("FEDREC_CA_FILE", raising=False)


def said(line: Line) -> str:
    with pytest.raises(Refused) as refused:
        line.call("POST", "/", b"never sent")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_site_with_a_certificate_of_the_named_authority_answers(ca, host):
    with served(ca.server()) as port:
        line = Line("a", f"https://{host}:{port}", ca.pem)
        for _ in range(3):
            assert line.call("POST", "/", BODY).body == BODY
        line.close()


def test_the_bytes_that_are_counted_are_those_on_the_wire(ca):
    """More than the body and its headers, and by less than 2 %: the handshake and 22 bytes for each 16 kB."""
    with served(None) as port:
        plain = Line("a", f"http://127.0.0.1:{port}")
        plain.call("POST", "/", BODY)
        plain.close()
    with served(ca.server()) as port:
        line = Line("a", f"https://127.0.0.1:{port}", ca.pem)
        line.call("POST", "/", BODY)
        first = line.counted
        line.call("POST", "/", b"")
        assert all(now > before for now, before in zip(line.counted, first, strict=True))
        line.close()
    for wire, bare in zip(first, plain.counted, strict=True):
        assert 1.001 * bare < wire < 1.02 * bare


def test_the_variable_names_an_authority_too_and_goes_first(ca, tmp_path, monkeypatch):
    other = Authority(tmp_path, "other")
    with served(ca.server()) as port:
        monkeypatch.setenv("FEDREC_CA_FILE", str(ca.pem))
        assert Line("a", f"https://localhost:{port}", other.pem).call("POST", "/", b"x").body == b"x"
        monkeypatch.setenv("FEDREC_CA_FILE", str(other.pem))
        assert said(Line("a", f"https://localhost:{port}", ca.pem)).startswith(
            "site.tls: a: its certificate is refused: "
        )


def test_another_authority_another_host_and_a_date_gone_by_are_refused_in_one_line(ca, tmp_path):
    other = Authority(tmp_path, "other")
    start, end = "site.tls: a: its certificate is refused: ", ". Check its url and FEDREC_CA_FILE"
    with served(other.server()) as port:
        assert said(Line("a", f"https://localhost:{port}", ca.pem)).startswith(
            start + "unable to get local issuer certificate"
        )
        assert said(Line("a", f"https://localhost:{port}")).startswith(start)  # the machine's own authorities
        assert Line("a", f"https://localhost:{port}", other.pem).call("POST", "/", b"x").body == b"x"  # the control
    with served(ca.server("elsewhere", host="elsewhere.example")) as port:
        text = said(Line("a", f"https://localhost:{port}", ca.pem))
        assert text == f"{start}Hostname mismatch, certificate is not valid for 'localhost'{end}"
    with served(ca.server("old", days=-1)) as port:
        assert said(Line("a", f"https://localhost:{port}", ca.pem)) == f"{start}certificate has expired{end}"


def test_plain_http_where_https_was_said_is_refused(ca):
    with served(None) as port:
        assert said(Line("a", f"https://localhost:{port}", ca.pem)).startswith(
            "site.tls: a does not speak TLS as it should"
        )


def test_an_answer_that_is_cut_is_never_taken_for_a_whole_one(ca):
    with served(ca.server()) as port:
        line = Line("a", f"https://localhost:{port}", ca.pem)
        with pytest.raises(Refused, match=r"site\.lost: a does not answer"):
            line.call("POST", "/cut", BODY)


def test_a_line_that_the_site_closed_is_opened_again(ca):
    with served(ca.server()) as port:
        line = Line("a", f"https://localhost:{port}", ca.pem)
        assert line.call("POST", "/bye", b"one").body == b"one"
        before = line.counted
        assert line.call("POST", "/", b"two").body == b"two"
        assert all(now > 1.5 * then for now, then in zip(line.counted, before, strict=True))  # both handshakes count
        line.close()


@pytest.mark.parametrize("url", ["ftp://a:1", "http://a", "https://", "https://a:99999", ""])
def test_an_address_that_is_none_is_said(url):
    with pytest.raises(Unreachable, match=r"no address of the form http\(s\)://host:port"):
        Line("a", url)


def test_a_ca_file_that_is_none_is_said(tmp_path):
    with pytest.raises(Unreachable, match="the CA file cannot be read"):
        Line("a", "https://a:1", tmp_path / "nowhere")
    (tmp_path / "empty").touch()
    with pytest.raises(Unreachable, match="the CA file holds no certificate"):
        Line("a", "https://a:1", tmp_path / "empty")
