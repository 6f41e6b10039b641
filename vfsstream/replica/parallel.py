"""A few requests side by side, on threads that do not hold up the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import TypeVar

__all__ = ["side_by_side"]

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(function: Callable[[T], R], items: Iterable[T], limit: int, name: str) -> list[R]:
    """The function's results in the order of the items, at most ``limit`` of them under way at once.

    The standard library's pools are joined when the interpreter ends, however long a server keeps silent; these
    threads are daemons. After a failure no further item is begun.

    Args:
        name: of the threads, after ``vfsstream-``.

    Raises:
        BaseException: the failure of the first item that failed.
    """
    wanted = list(items)
    if len(wanted) < 2 or limit < 2:
        return [function(item) for item in wanted]
    results: dict[int, R] = {}
    failures: dict[int, BaseException] = {}
    numbers = iter(range(len(wanted)))
    lock = threading.Lock()  # guards numbers

    def work() -> None:
        while not failures:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                results[number] = function(wanted[number])
            except BaseException as error:
                failures[number] = error

    threads = [
        threading.Thread(target=copy_context().run, args=(work,), name=f"vfsstream-{name}-{number}", daemon=True)
        for number in range(min(limit, len(wanted)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[min(failures)]
    return [results[number] for number in range(len(wanted))]
