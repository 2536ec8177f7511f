"""The backend over two processes: the completions of one, every error where it belongs, no hang."""

import json
from pathlib import Path

import pytest
from backend_tiny import load_tiny, save_adapter, save_tiny
from two_processes import launch

from hybrid.backends.base import Request, Sampling
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import AdapterError, BackendError, TrainingError, UsageError
from hybrid.pipeline import workers

DOCUMENT = "reverse what comes after the sign and say it again " * 1
REQUESTS = [Request((DOCUMENT if i % 3 else "") + "xyz"[i % 3] * (1 + i % 5) + f"{i} =", seed=i) for i in range(30)]
GREEDY, SAMPLED = Sampling(max_new_tokens=8), Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9)


def backend(folder: Path) -> TransformersBackend:
    return TransformersBackend(load_tiny(folder), TransformersBackendConfig(batch_size=4))


def plain(completions) -> list[list]:
    return [[c.text, c.tokens_in, c.tokens_out, c.finish] for c in completions]


SCRIPT = """
import json, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from hybrid.backends.adapters import inspect_adapter
from hybrid.backends.base import Request
from hybrid.errors import AdapterError, HybridError
from hybrid.pipeline import workers
from hybrid.pipeline.sharded import ShardedBackend, serve
from test_sharded import GREEDY, REQUESTS, SAMPLED, backend, plain
folder, out = Path(sys.argv[2]), Path(sys.argv[3])
workers.join("cpu", 4.0)
own = backend(folder)
adapters = [None, *(inspect_adapter(out / name) for name in "ab")]
rank, found = workers.rank(), {}

class Failing:
    # On process 1 alone the adapter cannot be read, once.
    batch_rows = 4
    def __init__(self): self.left = 1
    info = own.info
    def generate_part(self, requests, sampling, adapter, part, parts):
        if part == 1 and self.left:
            self.left = 0
            raise AdapterError("its file is torn")
        return own.generate_part(requests, sampling, adapter, part, parts)

def attempt(backend, requests, sampling, adapter=None):
    try:
        return plain(backend.generate(requests, sampling, adapter))
    except HybridError as error:
        return [type(error).__name__, str(error)]

if rank == 0:
    shared = ShardedBackend(own)
    found["same"] = [
        attempt(shared, REQUESTS, sampling, adapter) for adapter in adapters for sampling in (GREEDY, SAMPLED)
    ]
    found["rows"] = shared.rows
    found["too long"] = attempt(shared, [*REQUESTS, Request("x" * 200, seed=0)], GREEDY)
    failing = ShardedBackend(Failing())
    workers.broadcast({"kind": "fail"})
    found["torn"] = attempt(failing, REQUESTS, GREEDY, adapters[1])
    found["after"] = attempt(failing, REQUESTS, GREEDY, adapters[1])
    workers.broadcast({"kind": "sleep"})
    began = time.monotonic()
    found["late"] = attempt(shared, REQUESTS, GREEDY)
    found["waited"] = time.monotonic() - began
else:
    mine = own
    while (order := workers.broadcast(None))["kind"] != "sleep":
        if order["kind"] == "fail":
            mine = Failing()
        else:
            serve(mine, order)
    workers.broadcast(None)
    time.sleep(7)
    try:
        workers.gather(None)
    except HybridError as error:
        found["lost"] = [type(error).__name__, str(error)]
(out / f"rank-{rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    out = tmp_path_factory.mktemp("sharded")
    folder = save_tiny(out / "tiny")
    for seed, name in enumerate("ab"):
        save_adapter(out / name, load_tiny(folder), seed=seed + 1)
    return out, launch(SCRIPT, folder, out, timeout_s=300)


@pytest.mark.slow
def test_two_processes_answer_as_one_does_with_every_adapter(launched):
    from hybrid.backends.adapters import inspect_adapter

    out, (first, _) = launched
    own = backend(out / "tiny")
    adapters = [None, *(inspect_adapter(out / name) for name in "ab")]
    alone = [plain(own.generate(REQUESTS, s, adapter)) for adapter in adapters for s in (GREEDY, SAMPLED)]
    assert first["same"] == alone
    assert len({json.dumps(answers) for answers in alone}) == 6, "the adapters and the sampling must show"
    assert sum(first["rows"]) == 6 * len(REQUESTS)
    assert min(first["rows"]) >= 6 * len(REQUESTS) // 3


@pytest.mark.slow
def test_an_error_of_every_process_reads_as_in_a_run_of_one(launched):
    out, (first, _) = launched
    with pytest.raises(BackendError) as alone:
        backend(out / "tiny").generate([*REQUESTS, Request("x" * 200, seed=0)], GREEDY, None)
    assert first["too long"] == [type(alone.value).__name__, str(alone.value)]


@pytest.mark.slow
def test_an_error_of_one_process_names_it_and_the_next_call_works(launched):
    first = launched[1][0]
    assert first["torn"] == ["AdapterError", "process 1: its file is torn"]
    assert first["after"] == first["same"][2]


@pytest.mark.slow
def test_a_process_that_hangs_is_named_when_its_time_is_over(launched):
    first, second = launched[1]
    assert first["late"][0] == second["lost"][0] == "BackendError"
    assert first["late"][1].startswith("process 1 gave no answer")
    assert second["lost"][1].startswith("process 0 gave no answer")
    assert 3 < first["waited"] < 30


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_are_whole_batches_and_answer_every_place_once(tmp_path, parts):
    own = backend(save_tiny(tmp_path / "tiny"))
    whole = own.generate(REQUESTS, SAMPLED, None)
    found = [own.generate_part(REQUESTS, SAMPLED, None, part, parts) for part in range(parts)]
    places = [place for part in found for place in part]
    assert sorted(places) == list(range(len(REQUESTS)))
    assert own.prefix_use.rows > 0, "some of these rows share a beginning"
    merged = {place: completion for part in found for place, completion in part.items()}
    assert plain(merged[i] for i in range(len(REQUESTS))) == plain(whole)


def test_an_error_keeps_its_class_across_processes():
    for error in (AdapterError("a"), BackendError("b"), TrainingError("c"), UsageError("d")):
        again = workers.rebuilt(workers.described(error), "process 3: ")
        assert (type(again), str(again)) == (type(error), f"process 3: {error}")
    assert type(workers.rebuilt({"error": "ConfigError", "message": "m"})) is UsageError
    assert type(workers.rebuilt({"error": "os", "message": "m"})) is BackendError


def test_deepspeed_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match=r"DeepSpeed.*fsdp2\.yaml"):
        workers.refuse_launch({"ACCELERATE_USE_DEEPSPEED": "true"})
    workers.refuse_launch({"ACCELERATE_USE_DEEPSPEED": "false", "ACCELERATE_USE_FSDP": "true"})
