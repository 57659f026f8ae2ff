"""The Faust app as this product needs it: what is set, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import faust
from yarl import URL

from streams.credentials import credentials
from streams.settings import StreamsSettings
from streams.transport import RunTransport

_FETCH_BYTES = 1024 * 1024
"""Of one partition at once. Larger answers come so seldom that the worker waits for them (measured)."""
_WAITING_RUNS = 32
"""Fetched runs of a topic that wait in memory at most, some 60 MB; Faust's own limit would be thousands of them."""


def build_app(
    settings: StreamsSettings, *, kafka: Mapping[str, str], folder: Path, in_runs: frozenset[str]
) -> faust.App:
    """An app that hands the topics `in_runs` over in runs; on disk it has only Faust's own files, in `folder`.

    `kafka` is a librdkafka client configuration. Raises `CredentialsError` where Faust cannot log in as it says.
    """
    bootstrap = kafka["bootstrap.servers"]
    app = faust.App(
        settings.app_id,
        broker=[URL(f"kafka://{address}") for address in bootstrap.split(",")],
        broker_credentials=credentials(kafka),
        datadir=str(folder),
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=6.0,  # with the heartbeat: back from a kill in 4 to 18 s (measured)
        broker_heartbeat_interval=1.0,
        broker_commit_interval=1.0,
        broker_max_poll_records=2 * settings.max_run,
        consumer_max_fetch_size=_FETCH_BYTES,
        # Evidence of both topics folds into one book: partition N of each must be with one worker. Faust's own
        # assignor does that for topics with equal partition counts; with no standbys a plain one would be used.
        table_standby_replicas=1,
        stream_wait_empty=True,
        stream_buffer_maxsize=_WAITING_RUNS,
    )
    transport = RunTransport(app.conf.broker, app)
    transport.topics_in_runs = in_runs
    transport.longest_run = settings.max_run
    app.transport = transport
    return app
