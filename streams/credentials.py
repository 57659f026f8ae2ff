"""From librdkafka's settings for TLS and logins to Faust's: what is in `kafka.client` holds for every process."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

import faust
from faust.types.auth import CredentialsT

_PROTOCOL = "security.protocol"
_MECHANISMS = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}
_KNOWN = {
    "sasl.mechanisms",
    "sasl.mechanism",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
}


class CredentialsError(ValueError):
    """`kafka.client` asks for what the stream processors cannot do; the message says what, and what they can."""


def credentials(client: Mapping[str, str]) -> CredentialsT | None:
    """What Faust needs to log in as librdkafka does with `client`; None for plain text.

    Raises `CredentialsError`, also for a file that cannot be used.
    """
    protocol = client.get(_PROTOCOL, "plaintext").lower()
    if protocol == "plaintext":
        return None
    if protocol not in {"ssl", "sasl_plaintext", "sasl_ssl"}:
        raise CredentialsError(
            f"kafka.client: {_PROTOCOL} is {protocol!r}; there are plaintext, ssl, sasl_plaintext, sasl_ssl"
        )
    if unknown := sorted(key for key in client if key.startswith(("ssl.", "sasl.")) and key not in _KNOWN):
        raise CredentialsError(
            f"kafka.client: the stream processors have nothing for {', '.join(unknown)}; leave it out"
        )
    context = _context(client) if protocol.endswith("ssl") else None
    if protocol == "ssl":
        return faust.SSLCredentials(context)
    mechanism = client.get("sasl.mechanisms") or client.get("sasl.mechanism") or "none"
    if mechanism not in _MECHANISMS:
        raise CredentialsError(
            f"kafka.client: sasl.mechanism is {mechanism}; "
            f"the stream processors log in by {', '.join(sorted(_MECHANISMS))}"
        )
    if missing := [key for key in ("sasl.username", "sasl.password") if key not in client]:
        raise CredentialsError(f"kafka.client: {_PROTOCOL} is {protocol}, and {' and '.join(missing)} is not set")
    return faust.SASLCredentials(
        username=client["sasl.username"],
        password=client["sasl.password"],
        mechanism=mechanism,
        ssl_context=context,
    )


def _context(client: Mapping[str, str]) -> ssl.SSLContext:
    """As librdkafka takes it: the system's authorities where none are named, and the broker's name is checked."""
    place = client.get("ssl.ca.location")
    try:
        # a folder of authorities is one, too
        is_folder = place is not None and Path(place).is_dir()
        context = ssl.create_default_context(cafile=None if is_folder else place, capath=place if is_folder else None)
        if (certificate := client.get("ssl.certificate.location")) is not None:
            context.load_cert_chain(certificate, client.get("ssl.key.location"), client.get("ssl.key.password", ""))
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(f"{key} = {client[key]}" for key in sorted(client) if key.endswith(".location"))
        raise CredentialsError(f"kafka.client: {named}: {error.strerror or error}") from error
    if client.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    if client.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
