"""A wire between the gateway and a server that can fall silent, be cut, or lead elsewhere from now on."""

import asyncio


class Relay:
    """Carries bytes to a server; after `hush_after` of them nothing comes back, after `cut_after` the line breaks."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.hush_after = self.cut_after = 1 << 60
        self.lines: list[asyncio.StreamWriter] = []
        self.server: asyncio.Server | None = None
        self.serving: set[asyncio.Task[None]] = set()
        self.here = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        self.here = self.server.sockets[0].getsockname()[1]

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self.serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.close()
            return
        self.lines += [writer, there_writer]
        sent = 0

        async def forth() -> None:
            nonlocal sent
            while data := await reader.read(4096):
                there_writer.write(data)
                await there_writer.drain()
                sent += len(data)
                if sent >= self.cut_after:
                    self.cut()

        async def back() -> None:
            while data := await there_reader.read(4096):
                if sent < self.hush_after:
                    writer.write(data)
                    await writer.drain()

        both = [asyncio.ensure_future(forth()), asyncio.ensure_future(back())]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        writer.close()
        there_writer.close()

    def whole(self) -> None:
        self.hush_after = self.cut_after = 1 << 60

    def cut(self) -> None:
        for line in self.lines:
            line.transport.abort()
        self.lines.clear()

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        while self.serving:  # each ends when its line is cut, and closes both ends
            self.cut()
            await asyncio.wait(set(self.serving), timeout=0.1)
