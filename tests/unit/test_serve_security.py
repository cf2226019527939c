"""Who may speak to the server, and what a browser may do with its answers."""

from __future__ import annotations

import logging

import pydantic
import pytest
from support.serving import ScriptedEngine, client_for, scripted_nla

from nlakit.cli.serve import make_settings, read_secret
from nlakit.errors import InputError
from nlakit.serve.security import host_name
from nlakit.serve.settings import Settings

METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    options = {"allowed_hosts": ("nla.example",), "allowed_origins": ("https://page.example",)}
    with client_for(scripted_nla(ScriptedEngine()), data, max_body_bytes=5000, **options) as found:
        yield found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.7", "", "a@localhost"]
)
def test_other_hosts_are_refused_on_every_method(client, method, host):
    assert client.request(method, "/v1/health", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "127.0.0.1:8000", "[::1]:1", "nla.example"]
)
def test_own_hosts_are_let_in(client, host):
    assert client.get("/v1/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "http://127.0.0.1:9999", "file://"]
)
def test_other_origins_are_refused_on_every_method(client, method, origin):
    assert client.request(method, "/", headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "https://page.example"])
def test_own_origins_are_let_in(client, origin):
    assert client.get("/", headers={"Origin": origin}).status_code == 200


def test_hosts_by_address_where_others_may_come(tmp_path):
    options = {"host": "0.0.0.0", "secret": "s3"}
    with client_for(scripted_nla(ScriptedEngine()), tmp_path, **options) as client:
        by_address = client.get("/v1/health", headers={"Host": "10.0.0.7:8000"})
        by_name = client.get("/v1/health", headers={"Host": "rebound.example"})
        assert (by_address.status_code, by_name.status_code) == (200, 400)


def test_bodies_are_bounded(client):
    headers = {"Content-Type": "application/json"}
    announced = client.post("/tokenize", content=b"x" * 6000, headers=headers)
    parts = (b"x" * 1000 for _ in range(6))
    unannounced = client.post("/tokenize", content=parts, headers=headers)
    lying = client.post("/tokenize", content=b"{}", headers={**headers, "Content-Length": "9" * 30})
    assert [each.status_code for each in (announced, unannounced, lying)] == [413] * 3
    assert announced.json() == {"detail": "The body is larger than 5000 bytes."}


def test_every_answer_carries_the_policy(client):
    for found in (client.get("/"), client.get("/nowhere"), client.get("/", headers={"Host": "x"})):
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and "http" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in found.headers


def test_paths_stay_inside_the_page(client):
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"):
        assert client.get(path).status_code == 404


def test_errors_do_not_repeat_what_was_sent(client):
    found = client.post("/describe", json={"activations": "x" * 3000})
    assert found.status_code == 422 and "xxx" not in found.text


def test_the_secret_is_never_shown(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with client_for(scripted_nla(ScriptedEngine()), tmp_path, secret="hush-hush") as client:
        keys = (b"hush-hush", b"hush", b"\xfc")
        found = [client.get("/", headers={b"X-SECRET-KEY": key}) for key in keys]
        assert [each.status_code for each in found] == [200, 403, 403]
        shown = repr(client.app.state.settings) + "".join(each.text for each in found) + caplog.text
    assert "hush-hush" not in shown


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "nla.example"])
def test_other_addresses_demand_a_secret(host):
    with pytest.raises(pydantic.ValidationError, match="--secret-file"):
        Settings(host=host)
    assert Settings(host=host, secret="x").host == host


@pytest.mark.parametrize("secret", ["", "two words", "\u00fc", "tab\t"])
def test_a_secret_is_one_word_and_stays_unsaid(secret):
    with pytest.raises(pydantic.ValidationError, match="one word") as refusal:
        Settings(secret=secret)
    with pytest.raises(InputError, match="secret") as told:
        make_settings(secret=secret)
    for error in (refusal, told):
        assert not secret or secret not in str(error.value)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Localhost:80", "localhost"),
        ("[::1]:80", "::1"),
        ("a:b", None),
        ("a/b", None),
        ("a?b", None),
        ("u@a", None),
        ("[::1", None),
        ("", None),
    ],
)
def test_host_names(header, name):
    assert host_name(header) == name


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o644, True)])
def test_a_secret_that_others_can_read_is_warned_of(tmp_path, capsys, mode, warned):
    path = tmp_path / "a secret"
    path.write_text("hush-hush\n")
    path.chmod(mode)
    assert read_secret(path) == "hush-hush"
    told = capsys.readouterr().err
    assert ("chmod 600" in told) is warned and "hush-hush" not in told
