"""Schemas evolve: what was written with an earlier version is read by this one."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastavro import schemaless_reader, schemaless_writer
from fastavro.utils import generate_one

from schemas import registry
from schemas.codec import MARKER, CodecError, SingleObjectCodec
from schemas.records import GpuSample
from schemas.registry import FOLDER, Schema
from tests.streams_scenes import sample

ROOT = FOLDER.parent


def crc_64_avro(canonical: bytes) -> int:
    """The fingerprint, written from the pseudo-code of the Avro specification."""
    empty = 0xC15D213AA4D7A795
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
        table.append(value & 0xFFFFFFFFFFFFFFFF)
    print_ = empty
    for byte in canonical:
        print_ = (print_ >> 8) ^ table[(print_ ^ byte) & 0xFF]
    return print_


# From Avro's own test suite, share/test/data/schema-tests.txt
PUBLISHED = {
    b'"null"': 7195948357588979594,
    b'"int"': 8247732601305521295,
    b'{"name":"foo","type":"record","fields":[]}': -4824392279771201922,
}


@pytest.mark.parametrize("canonical", PUBLISHED)
def test_our_reckoning_of_a_fingerprint_is_the_published_one(canonical: bytes) -> None:
    assert crc_64_avro(canonical) == PUBLISHED[canonical] % 2**64


def test_the_fingerprint_of_a_published_schema_is_the_published_one_in_wire_order() -> None:
    schema = registry.parse(b'{"fields": [], "type": "record", "name": "foo", "doc": "no matter"}', current=True)
    assert schema.fingerprint == (-4824392279771201922 % 2**64).to_bytes(8, "little")


def test_the_fingerprints_of_our_schemas_are_right() -> None:
    for schema in registry.known().values():
        canonical = msgspec.json.encode(schema.canonical)
        assert schema.fingerprint == crc_64_avro(canonical).to_bytes(8, "little"), schema.name


# --- versions in git --------------------------------------------------------------------------------------------------


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def history() -> dict[str, list[tuple[str, Schema]]]:
    """Every version of every schema that git knows, by record: (commit, schema)."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed, so earlier versions of the schemas cannot be looked up")
    if not (ROOT / ".git").exists():
        pytest.skip(f"{ROOT} is no git checkout, so earlier versions of the schemas cannot be looked up")
    found: dict[str, list[tuple[str, Schema]]] = {}
    commit = ""
    for line in git("log", "--no-renames", "--name-only", "--format=%H", "--", "schemas/*.avsc").splitlines():
        if not line.endswith(".avsc"):
            commit = line or commit
            continue
        shown = subprocess.run(["git", "-C", str(ROOT), "show", f"{commit}:{line}"], capture_output=True, check=False)
        if shown.returncode == 0:  # else it was deleted there
            schema = registry.parse(shown.stdout, current=False)
            found.setdefault(schema.name, []).append((commit, schema))
    return found


def read_by_the_current_one(written_with: Schema) -> dict[str, Any]:
    out = io.BytesIO()
    schemaless_writer(out, written_with.parsed, generate_one(written_with.parsed))
    fields = schemaless_reader(
        io.BytesIO(out.getvalue()), written_with.parsed, registry.current(written_with.name).parsed
    )
    assert isinstance(fields, dict)
    return fields


def test_every_version_in_git_is_read_by_the_current_one(history: dict[str, list[tuple[str, Schema]]]) -> None:
    assert history, "git knows no schema"
    for name, versions in history.items():
        for commit, schema in versions:
            fields = read_by_the_current_one(schema)
            wanted = {field["name"] for field in registry.current(name).parsed["fields"]}
            assert set(fields) == wanted, f"{name} as of {commit}"


def test_every_version_since_the_first_release_is_kept(history: dict[str, list[tuple[str, Schema]]]) -> None:
    """A fleet is never upgraded at one instant: what a release wrote must be known at run time, in `earlier/`."""
    tags = git("tag", "--sort=creatordate", "--list", "v*").split()
    if not tags:
        pytest.skip("nothing is released yet (no tag v*), so no earlier version is in use")
    for name, versions in history.items():
        before = set(git("rev-list", tags[0]).split())
        # the version that the release had, and all that came after it
        at_release = next((schema for commit, schema in versions if commit in before), None)
        since = [schema for commit, schema in versions if commit not in before]
        for schema in [*since, *filter(None, [at_release])]:
            assert schema.fingerprint in registry.known(), (
                f"{name}: a version with fingerprint {schema.fingerprint.hex()} was released; "
                "save it in schemas/earlier/ so that what it wrote can be read"
            )


# --- earlier versions at run time -------------------------------------------------------------------------------------


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return document | {"fields": [field for field in document["fields"] if field["name"] not in names]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the schemas to be changed."""
    for path in FOLDER.glob("*.avsc"):
        shutil.copy(path, tmp_path)
    (tmp_path / "earlier").mkdir()
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    registry.known.cache_clear()
    registry.current.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    registry.known.cache_clear()
    registry.current.cache_clear()


def test_what_an_earlier_version_wrote_is_read_with_defaults_for_what_it_did_not_know(folder: Path) -> None:
    document = msgspec.json.decode((folder / "gpu.samples.avsc").read_bytes())
    earlier = without(document, "interval_ms", "process_count")
    (folder / "earlier" / "gpu.samples.1.avsc").write_bytes(msgspec.json.encode(earlier))
    schema = registry.parse(msgspec.json.encode(earlier), current=False)
    record = sample(process_count=3.0, interval_ms=5000)
    out = io.BytesIO(MARKER + schema.fingerprint)
    out.seek(0, io.SEEK_END)
    schemaless_writer(out, schema.parsed, msgspec.to_builtins(record))
    read = SingleObjectCodec().decode(out.getvalue(), GpuSample)
    assert read == msgspec.structs.replace(record, interval_ms=1000, process_count=[])


def test_an_earlier_version_that_differs_only_in_words_does_not_take_the_place_of_the_current_one(folder: Path) -> None:
    document = msgspec.json.decode((folder / "gpu.samples.avsc").read_bytes())
    reworded = document | {"doc": "As it was said before."}
    (folder / "earlier" / "gpu.samples.1.avsc").write_bytes(msgspec.json.encode(reworded))
    assert registry.current("GpuSample").current
    codec = SingleObjectCodec()
    assert codec.decode(codec.encode(sample()), GpuSample) == sample()


def test_a_version_that_is_not_kept_is_an_unknown_schema(folder: Path) -> None:
    document = msgspec.json.decode((folder / "gpu.samples.avsc").read_bytes())
    foreign = registry.parse(msgspec.json.encode(without(document, "fan_speed_percent")), current=False)
    with pytest.raises(CodecError) as caught:
        SingleObjectCodec().decode(MARKER + foreign.fingerprint + b"\x00", GpuSample)
    assert caught.value.reason == "unknown_schema"
