"""An empty echo call on the server set-up of the service: what gRPC itself costs in Python.

The same grpc.aio server with the same options, on uvloop, its handler taking bytes and giving them back. Run as
`python -m bench.echo_server [WORKERS]`; more than one process share the port.
"""

import asyncio
import signal
import socket
import subprocess
import sys

import grpc

from challenge_server.application import SERVER_OPTIONS, collect_garbage_less_often, run

METHOD = "/bench.Echo/Call"


async def _echo(data: bytes, _context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
    return data


async def _serve(port: int, *, is_shared: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = grpc.aio.server(options=[*SERVER_OPTIONS, ("grpc.so_reuseport", int(is_shared))])
    handler = grpc.method_handlers_generic_handler("bench.Echo", {"Call": grpc.unary_unary_rpc_method_handler(_echo)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    collect_garbage_less_often()
    print(f"ready on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)


def _serve_together(workers: int) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        command = [sys.executable, "-m", "bench.echo_server", "worker", str(port)]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()

        def stop(*_: object) -> None:
            for process in started:
                process.terminate()

        signal.signal(signal.SIGTERM, stop)
        print(f"ready on 127.0.0.1:{port}", flush=True)
        for process in started:
            process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        run(_serve(int(sys.argv[2]), is_shared=True))
    elif int(sys.argv[1] if len(sys.argv) > 1 else 1) > 1:
        _serve_together(int(sys.argv[1]))
    else:
        run(_serve(0, is_shared=False))
