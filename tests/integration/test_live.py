"""The running batch: every row says what it says alone, whoever enters and leaves beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from backend_tiny import in_float64, load_tiny, save_adapter, save_tiny

from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.live import LiveBatch, LiveRequest, LiveRow
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import AdapterError, BackendError

DOCUMENT = "a plum is named by its second letter and a stone by its last one\n"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> TransformersBackend:
    folder = tmp_path_factory.mktemp("live")
    loaded = in_float64(load_tiny(save_tiny(folder / "model", positions=160)))
    return TransformersBackend(loaded, TransformersBackendConfig(), share_prefixes=True)


@pytest.fixture(scope="module")
def adapters(backend: TransformersBackend, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter | None]:
    folder = tmp_path_factory.mktemp("adapters")
    return [None, *(save_adapter(folder / f"a{seed}", backend.loaded, seed=seed) for seed in (1, 2))]


def requests(adapters: list[Adapter | None]) -> list[LiveRequest]:
    """Rows of every adapter, greedy and sampled, with and without the document, of several lengths."""
    rows = []
    for number in range(18):
        text = f"{'abc'[number % 3] * (1 + number % 5)}{number} ="
        under = number % 4 == 0
        sampling = Sampling(
            max_new_tokens=5 + number % 7, temperature=[0.0, 1.0, 0.7][number % 3], top_p=[1.0, 0.9][number % 2]
        )
        request = Request(DOCUMENT + text if under else text, seed=100 + number)
        rows.append(LiveRequest(request, sampling, adapters[number % len(adapters)], DOCUMENT + "?" if under else None))
    return rows


def alone(backend: TransformersBackend, asked: LiveRequest) -> tuple[str, str, int, int]:
    done = backend.generate([asked.request], asked.sampling, asked.adapter)[0]
    return done.text, done.finish, done.tokens_in, done.tokens_out


def told(row: LiveRow) -> tuple[str, str | None, int, int]:
    return row.text, row.finish, row.tokens_in, row.tokens_out


@pytest.mark.parametrize("together", [1, 3, 18])
def test_rows_that_enter_at_any_time_say_what_they_say_alone(
    backend: TransformersBackend, adapters: list[Adapter | None], together: int
) -> None:
    asked = requests(adapters)
    expected = [alone(backend, a) for a in asked]
    assert len({text for text, *_ in expected}) > 12, "the rows must be told apart"
    batch, rows, seen = LiveBatch(backend), [], {}
    for start in range(0, len(asked), together):
        rows += batch.admit(asked[start : start + together])
        batch.step()
        for row in rows:
            assert row.text.startswith(seen.get(id(row), "")), "a stream cannot take a word back"
            seen[id(row)] = row.text
    while batch.rows:
        batch.step()
    assert [told(row) for row in rows] == expected


def test_one_adapter_at_a_time_is_the_same(backend: TransformersBackend, adapters: list[Adapter | None]) -> None:
    asked = [a for a in requests(adapters) if a.adapter is adapters[1]]
    batch = LiveBatch(backend, mixed=False)
    rows = batch.admit(asked)
    while batch.rows:
        batch.step()
    assert [told(row) for row in rows] == [alone(backend, a) for a in asked]


def test_a_row_that_is_dropped_leaves_the_others_as_they_are(
    backend: TransformersBackend, adapters: list[Adapter | None]
) -> None:
    asked = requests(adapters)
    batch = LiveBatch(backend)
    rows = batch.admit(asked)
    batch.step()
    batch.drop(rows[::2])
    while batch.rows:
        batch.step()
    assert [told(row) for row in rows[1::2]] == [alone(backend, a) for a in asked[1::2]]
    assert all(row.tokens_out <= 2 for row in rows[::2])


def test_what_a_document_decides_is_computed_once(backend: TransformersBackend) -> None:
    backend.prefixes.clear()
    batch = LiveBatch(backend)
    for number in range(3):
        batch.admit(
            [LiveRequest(Request(f"{DOCUMENT}{number} =", 0), Sampling(max_new_tokens=2), None, DOCUMENT + "?")]
        )
    assert len(backend.prefixes) == 1


def test_a_prompt_that_leaves_no_room_is_refused_and_the_batch_goes_on(backend: TransformersBackend) -> None:
    batch = LiveBatch(backend)
    going = batch.admit([LiveRequest(Request("ab =", 0), Sampling(max_new_tokens=4), None)])
    long = Request("a" * 150, 0)
    with pytest.raises(BackendError, match="exceed the model's limit of 160 positions"):
        batch.admit([LiveRequest(long, Sampling(max_new_tokens=40), None)])
    shrunk = batch.admit([LiveRequest(long, Sampling(max_new_tokens=40), None, shrink=True)])
    while batch.rows:
        batch.step()
    assert going[0].finish and shrunk[0].tokens_out <= 160 - shrunk[0].tokens_in


def test_more_adapters_than_there_is_room_for_are_refused(
    backend: TransformersBackend, adapters: list[Adapter | None]
) -> None:
    many = [Adapter(Path("nowhere"), f"{n:064x}") for n in range(5)]
    with pytest.raises(AdapterError, match="5 adapters in one batch"), backend.shelf.by_row(many):
        pass
    with pytest.raises(AdapterError, match="nowhere"):
        LiveBatch(backend).admit([LiveRequest(Request("ab", 0), Sampling(), many[0])])
    bare = LiveRequest(Request("ab =", 0), Sampling(max_new_tokens=6), None)
    row = LiveBatch(backend).admit([bare])[0]
    assert alone(backend, bare)[0].startswith(row.text)
