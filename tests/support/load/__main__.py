"""A crew in a process of its own: prints its counts, one JSON line a sort, when its input ends.

Takes the target as JSON, the sizes as JSON, and a limit in seconds, after which it ends anyway.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress

import uvloop

from tests.support.load.crew import Crew
from tests.support.load.target import Target


async def _main(target: Target, sizes: dict[str, int] | None, limit: float) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Crew(target, sizes) as crew:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                # A line asks for the counts so far, the end of the input for the last ones.
                while await reader.readline():
                    _say(json.dumps(crew.requests()))
    for counts in crew.counts.values():
        _say(counts.to_json())


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_main(Target.from_json(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])))
