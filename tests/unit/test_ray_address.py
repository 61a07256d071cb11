"""A RAY_ADDRESS where nobody listens is refused at once: Ray itself would try for minutes."""

import socket

import pytest

from mmray.errors import UsageError
from mmray.ray_address import check_ray_address


@pytest.fixture
def dead_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_refused_with_what_to_do(monkeypatch, dead_port, scheme):
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{dead_port}")
    with pytest.raises(
        UsageError, match=rf"RAY_ADDRESS={scheme}127\.0\.0\.1:{dead_port}: no Ray cluster"
    ) as e:
        check_ray_address()
    assert "unset it" in str(e.value)


@pytest.mark.parametrize("address", ["somewhere", "127.0.0.1:", "127.0.0.1:99999"])
def test_what_is_no_address_is_refused(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=f"RAY_ADDRESS={address}"):
        check_ray_address()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_somebody_listens_is_left_to_ray(monkeypatch, scheme):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{server.getsockname()[1]}")
        check_ray_address()


@pytest.mark.parametrize("address", ["", "auto", "local", None])
def test_without_an_address_there_is_nothing_to_check(monkeypatch, address):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    check_ray_address()
