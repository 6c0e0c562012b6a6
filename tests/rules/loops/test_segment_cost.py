from fnbackprop.rules.loops.segment_cost import Cost

COST = Cost(carry=8, stacked=24)


def test_each_level_keeps_less():
    assert [COST.needed(4096, levels) for levels in range(4)] == [98304, 1792, 576, 352]
    assert COST.least(4096) <= 240 and COST.segments(4096, 100) is None


def test_segments_leave_enough_for_those_within():
    for allowed in (1792, 1000, 400, 300):
        count = COST.segments(4096, allowed)
        assert COST.least(-(-4096 // count)) <= allowed - COST.of_level(4096, count)


def test_a_near_divisor_is_preferred():
    """sqrt(60 · 24/8) = 13.4: 12 divides 60, so no rest is left; 61 steps have none, and are cut into 14."""
    assert COST.count(60, 1) == 12
    assert COST.count(61, 1) == 14
