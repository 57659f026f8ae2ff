"""A webhook: one HTTP POST of JSON per notice, for pagers, chats and ticket systems."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException

import msgspec
from pydantic import Field, HttpUrl, SecretStr

from sinks.channels.channel import Channel, ChannelModel, DeliveryError, Notice

_BUSY = {408, 425, 429}
"""Refusals that ask for patience: request timeout, too early, too many requests (RFC 9110, RFC 8470, RFC 6585)."""
_ANSWER_CHARACTERS = 200


class WebhookSettings(ChannelModel):
    """POST alerts to a URL."""

    url: HttpUrl = Field(description="Where to POST; http or https")
    timeout_seconds: float = Field(5, gt=0, description="An answer that takes longer counts as none")
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="Sent along, e.g. Authorization")

    def open(self) -> Channel:
        """The webhook."""
        return Webhook(self)


class Webhook:
    """POSTs a notice as one JSON object; `dedup_key` and the header `Idempotency-Key` are the incident's id."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        # a redirect would turn the POST into a GET and lose the alert without a sound
        self._opener = urllib.request.build_opener(_NoRedirect)

    def deliver(self, notice: Notice, now_ms: int) -> None:
        """POST one notice; any 2xx means taken. Blocks up to the timeout. Raises `DeliveryError`."""
        request = urllib.request.Request(  # noqa: S310 - HttpUrl allows http and https only
            str(self._settings.url),
            data=payload(notice, now_ms),
            headers={
                "Content-Type": "application/json",
                "User-Agent": "fleetpulse",
                "Idempotency-Key": f"{notice.incident.incident_id}-{notice.kind}",
                **{name: value.get_secret_value() for name, value in self._settings.headers.items()},
            },
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=self._settings.timeout_seconds) as answer:
                answer.read(_ANSWER_CHARACTERS)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from error
        except (OSError, HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            raise DeliveryError(f"no answer from {self._settings.url.host}: {reason}") from error


def payload(notice: Notice, now_ms: int) -> bytes:
    """The JSON that is posted."""
    incident = notice.incident
    return msgspec.json.encode(
        {
            "notice": notice.kind,
            "dedup_key": incident.incident_id,
            "title": incident.title,
            "severity": incident.severity,
            "root": incident.root,
            "action": incident.action,
            "reason": incident.reason,
            "evidence": incident.evidence,
            "alternatives": incident.alternatives,
            "delay_ms": notice.delay_ms(now_ms),
            "cleared_ms": notice.cleared_ms,
            "incident": incident,
        }
    )


def _refusal(error: urllib.error.HTTPError) -> DeliveryError:
    said = error.read(_ANSWER_CHARACTERS).decode(errors="replace").strip()
    after = error.headers.get("Retry-After", "")
    return DeliveryError(
        f"answered {error.code} {error.reason}" + (f": {said}" if said else ""),
        may_pass=error.code >= 500 or error.code in _BUSY,
        after_seconds=float(after) if after.isdecimal() else None,
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Lets a 3xx answer be an error."""

    def redirect_request(self, *_request: object) -> None:
        """Follow nothing."""
