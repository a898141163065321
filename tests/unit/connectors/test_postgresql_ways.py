"""How long it is believed who looks at a role's password."""

from __future__ import annotations

from dataclasses import replace

from connectors.postgresql.way_in import KnownWays, Rules

WAY = ("db", 5432, "require", "joe", "postgres")
THEN = Rules(started="at noon", loaded=100.0, seen=200.0)


def test_what_was_seen_holds_until_the_rules_are_read_anew_or_are_another_servers():
    ways = KnownWays()
    assert not ways.has(WAY, THEN)
    ways.add(WAY, THEN)
    assert ways.has(WAY, replace(THEN, seen=9000.0))
    assert ways.has(WAY, replace(THEN, loaded=150.0, seen=300.0))  # another backend that noticed later
    assert not ways.has(WAY, replace(THEN, loaded=201.0, seen=300.0))
    assert not ways.has(WAY, replace(THEN, started="at one"))
    assert not ways.has((*WAY[:2], "disable", *WAY[3:]), THEN)
    ways.remove(WAY)
    assert not ways.has(WAY, THEN)


def test_only_so_many_are_remembered():
    ways = KnownWays(most=2)
    for login in ("a", "b", "a", "c"):
        ways.add((*WAY[:3], login, "postgres"), THEN)
    assert [ways.has((*WAY[:3], login, "postgres"), THEN) for login in "abc"] == [True, False, True]
