from __future__ import annotations

from experiments.pages.text import duration, factor, flops, images_a_month, listed, money, rough_percent, total, years


def test_numbers_read_as_people_write_them() -> None:
    assert [money(v) for v in (1003.75, 0.995, 0.5, 0.0338, 0.000045, 0)] == [
        "$1,003.75", "$0.99", "$0.50", "$0.034", "$0.000045", "$0",
    ]  # fmt: skip
    assert [total(v) for v in (11_744.54, 99.99, 0.02)] == ["$11,745", "$99.99", "$0.020"]
    assert [duration(v) for v in (1.04, 9.996, 59.4, 59.6, 754, 3600)] == [
        "1.04 s",
        "10 s",
        "59 s",
        "1 min 00 s",
        "12 min 34 s",
        "1 h 00 min",
    ]
    assert (years(1.004), years(1.01), images_a_month(1.04)) == ("1 year", "1.01 years", "1 image a month")
    assert [years(v) for v in (0.5, 1 / 12, 0.9999, 0.25, 0.0001)] == [
        "6 months", "1 month", "1 year", "3 months", "0.0012 months",
    ]  # fmt: skip
    assert [factor(v) for v in (1.07, 1.9, 2.51, 0.93, 1.0004)] == ["1.07", "1.9", "2.5", "0.93", "1.0004"]
    assert [rough_percent(v) for v in (0, 0.004, 0.823, 0.9999, 1)] == [
        "0 %",
        "under 1 %",
        "82 %",
        "over 99 %",
        "100 %",
    ]
    assert [flops(v) for v in (3.5e14, 2e11)] == ["0.35 PFLOP", "0.20 TFLOP"]
    assert [listed(v) for v in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
