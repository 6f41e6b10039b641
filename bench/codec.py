"""Speed of the LTX codec on one core: encode, decode, merge, page index."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from vfsstream.ltx import TXID, Decoder, Header, PageIndex, encode, index_start, merge

PAGE = 4096


def sample_pages(count: int) -> list[bytes]:
    """Pages of text like those of a database of documents; LZ4 brings them to about 0.6."""
    source = random.Random(1)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(3, 9))) for _ in range(400)]
    pages = []
    for _ in range(count):
        text = json.dumps(
            [{word: source.randrange(1000) for word in source.choices(words, k=6)} for _ in range(60)]
        )
        pages.append(text[:PAGE].encode().ljust(PAGE, b"\0"))
    return pages


def best(work: Callable[[], object], turns: int = 3) -> float:
    """CPU seconds of the fastest of a few turns: other programs share the machine."""
    times = []
    for _ in range(turns):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def exhaust(chunks: Iterator[bytes]) -> int:
    return sum(len(chunk) for chunk in chunks)


def main(megabytes: int = 200) -> dict[str, float]:
    """Print the table; returns MB of database pages per CPU second by operation."""
    sample = sample_pages(2000)
    count = megabytes * 1_000_000 // PAGE
    header = Header(PAGE, count, TXID(1), TXID(1), 0)

    def pages() -> Iterator[tuple[int, bytes]]:
        return ((pgno, sample[pgno % len(sample)]) for pgno in range(1, count + 1))

    chunks = list(encode(header, pages()))
    size = sum(map(len, chunks))
    total = count * PAGE / 1e6
    deltas = [
        list(
            encode(
                Header(PAGE, count, TXID(n), TXID(n), 0),
                [(pgno, sample[pgno % 7]) for pgno in range(n, count, count // 10)],
            )
        )
        for n in range(2, 1002)
    ]
    tail = b"".join(chunks[-8:])
    start = index_start(tail[-24:], size)
    index = tail[start - size :]
    seconds = {
        "encode": best(lambda: exhaust(encode(header, pages()))),
        "decode, verified": best(lambda: sum(len(batch.pgnos) for batch in Decoder(chunks).batches())),
        "merge, one file": best(lambda: exhaust(merge([chunks]))),
        "merge, 1,000 files onto it": best(lambda: exhaust(merge([chunks, *deltas])), 1),
    }
    table = Table(
        title=f"LTX codec, one core, {total:.0f} MB of pages of {PAGE} bytes, LZ4 ratio {size / total / 1e6:.2f}"
    )
    table.add_column("operation")
    table.add_column("MB/s of pages", justify="right")
    for name, spent in seconds.items():
        table.add_row(name, f"{total / spent:,.0f}")
    parse = best(lambda: PageIndex.decode(index, header, size))
    table.add_row(f"page index of {count:,} entries", f"{parse * 1000:.1f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table.add_row("peak memory, with the sample held", f"{peak:.0f} MB")
    Console().print(table)
    return {name: total / spent for name, spent in seconds.items()}


if __name__ == "__main__":
    main()
