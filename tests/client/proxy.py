"""A wire to a server that a test can cut, silence and lead elsewhere."""

import asyncio
import contextlib
from typing import Self

CHUNK_BYTES = 65_536


class Proxy:
    """Listens on a port of its own and passes bytes on.

    While `flowing` is not set it holds them back, both ways; while `answering` is not, those of the server alone.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self.connections = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.answering = asyncio.Event()
        self.answering.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Break every connection, with RST rather than FIN."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def cut_every(self, interval_s: float) -> None:
        """Break every connection again and again, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        writers = [writer]
        try:
            with contextlib.suppress(OSError):
                host, _, port = self.target.rpartition(":")
                there, back = await asyncio.open_connection(host, int(port))
                writers.append(back)
                self._writers.update(writers)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, back, writers, self.flowing))
                    both.create_task(self._pump(there, writer, writers, self.flowing, self.answering))
        except asyncio.CancelledError:
            pass
        finally:
            for each in writers:
                each.transport.abort()
                self._writers.discard(each)
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: list[asyncio.StreamWriter],
        *open_gates: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                for gate in open_gates:
                    await gate.wait()
                writer.write(chunk)
                await writer.drain()
        for each in both:
            each.transport.abort()
