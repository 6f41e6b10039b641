"""When to stream everything."""

from __future__ import annotations

from vfsstream.vfs.escalate import Escalation, Link

MB = 1_000_000


def fast() -> Link:
    return Link(latency=0.02, throughput=100e6)


def misses_until_stream(total: int, link: Link, pause: float = 0.02, limit: int = 5000) -> int | None:
    escalation = Escalation()
    for number in range(1, limit):
        if escalation.scattered(number * pause, link, total):
            return number
    return None


def test_a_small_database_is_streamed_after_the_least_number_of_misses() -> None:
    assert misses_until_stream(10 * MB, fast()) == 48


def test_a_larger_one_when_as_much_was_paid_as_it_costs() -> None:
    found = misses_until_stream(100 * MB, fast())
    assert found is not None
    assert 100 <= found <= 110


def test_rare_misses_never_add_up() -> None:
    assert misses_until_stream(100 * MB, fast(), pause=1.0, limit=1000) is None


def test_a_near_store_is_never_streamed_for_its_latency() -> None:
    assert misses_until_stream(1000 * MB, Link(latency=0.0001, throughput=1e9), pause=0.0002) is None


def test_a_reset_forgets() -> None:
    escalation = Escalation()
    for number in range(1000):
        if number % 40 == 0:
            escalation.reset()
        assert not escalation.scattered(number * 0.02, fast(), 10 * MB)


def test_a_scattered_run_is_streamed_and_a_coalesced_one_is_not() -> None:
    escalation = Escalation()
    assert escalation.in_order(2000, 1000, 900, 3 * MB, fast(), 75 * MB)
    assert not escalation.in_order(2000, 1000, 10, 3 * MB, fast(), 75 * MB)
    assert not escalation.in_order(200, 100, 100, MB, fast(), 10_000 * MB)


def test_the_link_is_measured() -> None:
    link = Link()
    link.small(0.1)
    for _ in range(50):
        link.large(1 << 20, 0.2)
    assert link.latency == 0.1
    assert 9e6 < link.throughput < 12e6
    assert 1 << 20 <= link.window() <= 8 << 20


def test_what_a_run_pays_in_small_requests_adds_up() -> None:
    escalation = Escalation()
    assert not escalation.in_order(300, 100, 100, MB // 2, fast(), 75 * MB)
    escalation.asked(600)
    assert escalation.in_order(300, 100, 100, MB // 2, fast(), 75 * MB)


def test_rows_that_an_index_names_are_not_taken_to_go_on() -> None:
    """The same price, where nothing tells that as much will follow."""
    escalation = Escalation()
    escalation.asked(400)
    assert escalation.in_order(500, 128, 128, MB // 2, fast(), 56 * MB)
    assert not escalation.in_order(0, 128, 128, MB // 2, fast(), 56 * MB)
    escalation.asked(600)
    assert escalation.in_order(0, 128, 128, MB // 2, fast(), 56 * MB)
