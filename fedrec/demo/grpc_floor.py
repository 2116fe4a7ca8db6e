"""The floor of a round's cost over gRPC: the same bytes down and up in one unary call, with nothing in between.

grpcio is no dependency of fedrec: where it is not installed, `available` says so. Run as a module it is one server.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from fedrec.demo.floor import Floor

_METHOD = "echo", "Echo"
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def available() -> bool:
    """Whether grpcio is installed."""
    return find_spec("grpc") is not None


class GrpcFloor(Floor):
    """As `Floor`, over gRPC: one channel a server, kept open, without TLS."""

    module = __spec__.name

    def line(self, port: int) -> Any:
        import grpc

        return grpc.insecure_channel(f"127.0.0.1:{port}", options=_ANY_SIZE)

    def echo(self, line: Any, payload: bytes) -> bytes:
        back: bytes = line.unary_unary("/{}/{}".format(*_METHOD))(payload, timeout=60)
        return back


def main() -> None:
    """One server, until stdin ends."""
    import grpc

    handler = grpc.unary_unary_rpc_method_handler(lambda body, _: body)
    server = grpc.server(ThreadPoolExecutor(1), options=_ANY_SIZE)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_METHOD[0], {_METHOD[1]: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
