"""The numbers for Prometheus."""

import re

from toys import Server, line


def test_prometheus_can_read_the_numbers(echo: Server) -> None:
    bearer = f"Bearer {echo.token}"
    echo.wait(echo.submit([line("a", "planted-text"), line("b", n=2)]).id)
    status, headers, body = echo.request("GET", "/metrics", Authorization=bearer)
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    text = body.decode()
    sample = re.compile(r'arislab_[a-z_]+(\{[a-z]+="[a-z_]+"\})? [0-9.e+]+')
    rows = [row for row in text.splitlines() if not row.startswith("#")]
    assert all(sample.fullmatch(row) for row in rows), rows
    values = dict(row.rsplit(" ", 1) for row in rows)
    assert int(values['arislab_lines_total{result="completed"}']) >= 1
    assert int(values['arislab_lines_total{result="failed"}']) >= 1
    assert int(values["arislab_disk_bytes"]) == sum(path.stat().st_size for path in (echo.data / "files").iterdir())
    assert "planted-text" not in text
    assert echo.request("GET", "/metrics")[0] == 401
