"""What the system lets a process have."""

from __future__ import annotations

__all__ = ["raise_descriptor_limit"]


def raise_descriptor_limit() -> int | None:
    """Allow as many open files as the hard limit does; returns that number, or ``None`` when there is none.

    A replicated database holds about six. The usual soft limit of 1,024 is there for programs that call select(),
    and this one does not.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS states an infinite limit and grants less
        return soft
    return hard
