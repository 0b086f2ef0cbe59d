"""Progress where there is no terminal: a line now and then."""

from __future__ import annotations

from dynaconv.cli import options


def test_a_line_now_and_then(monkeypatch, capsys):
    seconds = iter(range(0, 1000, 10))
    monkeypatch.setattr(options.time, "monotonic", lambda: next(seconds))
    with options.counting("images", 1234) as advance:
        for _ in range(6):
            advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["images: 3 of 1,234", "images: 6 of 1,234"]
