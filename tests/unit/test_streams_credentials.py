"""What librdkafka's settings for TLS and logins come to for Faust; what cannot be had is refused by name."""

from __future__ import annotations

import ssl
from pathlib import Path

import faust
import pytest

from streams.credentials import CredentialsError, credentials

LOGIN = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "fleet", "sasl.password": "secret"}


def test_without_a_protocol_there_is_nothing_to_log_in_with() -> None:
    assert credentials({"bootstrap.servers": "b:9092", "linger.ms": "5"}) is None
    assert credentials({"security.protocol": "PLAINTEXT"}) is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_login_is_carried_over(mechanism: str) -> None:
    found = credentials({"security.protocol": "sasl_plaintext", **LOGIN, "sasl.mechanism": mechanism})
    assert isinstance(found, faust.SASLCredentials)
    assert (found.username, found.password, found.mechanism.value) == ("fleet", "secret", mechanism)
    assert found.protocol.value == "SASL_PLAINTEXT"
    assert "secret" not in repr(found)


def test_tls_checks_the_brokers_name_against_the_systems_authorities() -> None:
    found = credentials({"security.protocol": "sasl_ssl", **LOGIN})
    assert isinstance(found, faust.SASLCredentials)
    assert found.protocol.value == "SASL_SSL"
    assert found.ssl_context is not None
    assert found.ssl_context.check_hostname
    assert found.ssl_context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("given", "checks_name", "verifies"),
    [
        ({"ssl.endpoint.identification.algorithm": "none"}, False, ssl.CERT_REQUIRED),
        ({"enable.ssl.certificate.verification": "false"}, False, ssl.CERT_NONE),
    ],
)
def test_what_is_not_to_be_checked_is_not(given: dict[str, str], checks_name: bool, verifies: ssl.VerifyMode) -> None:
    found = credentials({"security.protocol": "ssl", **given})
    assert isinstance(found, faust.SSLCredentials)
    assert (found.context.check_hostname, found.context.verify_mode) == (checks_name, verifies)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"security.protocol": "tls"}, "'tls'; there are plaintext, ssl"),
        ({"security.protocol": "sasl_ssl"}, "sasl.mechanism is none"),
        ({"security.protocol": "sasl_ssl", **LOGIN, "sasl.mechanism": "GSSAPI"}, "log in by PLAIN, SCRAM"),
        ({"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN"}, "sasl.username and sasl.password is not set"),
        ({"security.protocol": "ssl", "ssl.keystore.location": "x"}, "nothing for ssl.keystore.location"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(given: dict[str, str], said: str) -> None:
    with pytest.raises(CredentialsError, match=said):
        credentials(given)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.pem")
    with pytest.raises(CredentialsError, match=r"ssl\.ca\.location = .*ca\.pem: No such file"):
        credentials({"security.protocol": "ssl", "ssl.ca.location": missing})
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(CredentialsError, match=r"broken\.pem"):
        credentials({"security.protocol": "ssl", "ssl.ca.location": str(broken)})
