"""What was paid for is never paid for again, limits hold exactly over restarts, and a recording answers nothing else."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from hybrid.backends.chat import ChatReply, ChatRequest
from hybrid.backends.chat_log import LoggedChat, ReplayChat, Spent, most_tokens_in
from hybrid.capability.types import Message
from hybrid.config.schema import ProposerBudgetConfig
from hybrid.errors import BudgetExhausted, EndpointError, RunFolderError
from hybrid.store.records import RecordLog

FREE = ProposerBudgetConfig(calls=None)


class CountingChat:
    """Answers every question with its own text and the number of the call; fails at the calls named."""

    def __init__(self, name: str = "counting", fail_at: tuple[int, ...] = ()) -> None:
        self.name, self.fail_at, self.calls = name, fail_at, 0

    def identity(self) -> str:
        return self.name

    def complete(self, request: ChatRequest) -> ChatReply:
        self.calls += 1
        if self.calls in self.fail_at:
            raise EndpointError("gone")
        text = f"{request.messages[-1].content} #{self.calls}"
        return ChatReply(text=text, tokens_in=20, tokens_out=7, seconds=0.25, attempts=2)


def ask(number: int, purpose: str = "reflect", **changes: object) -> ChatRequest:
    message = Message(role="user", content=f"question {number}")
    return ChatRequest(purpose=purpose, messages=(message,), **{"max_tokens": 40, **changes})  # type: ignore[arg-type]


def test_a_question_is_paid_for_once_within_a_run_and_over_restarts(tmp_path: Path) -> None:
    inner = CountingChat()
    chat = LoggedChat(inner, tmp_path / "deep" / "replies.jsonl", FREE)
    first = chat.complete(ask(1))
    assert chat.complete(ask(1)) == first and inner.calls == 1
    assert chat.complete(ask(1, seed=5)) != first and inner.calls == 2
    later = CountingChat()
    again = LoggedChat(later, tmp_path / "deep" / "replies.jsonl", FREE)
    assert again.complete(ask(1)) == first and later.calls == 0
    assert again.spent() == chat.spent() == Spent(calls=2, tokens_in=40, tokens_out=14, usd=0.0, attempts=4)


def test_another_model_is_asked_anew_and_what_the_first_cost_still_counts(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    LoggedChat(CountingChat("one"), path, FREE).complete(ask(1))
    other = CountingChat("two")
    chat = LoggedChat(other, path, ProposerBudgetConfig(calls=2))
    assert chat.identity() == "two"
    chat.complete(ask(1))
    assert other.calls == 1 and chat.spent().calls == 2
    with pytest.raises(BudgetExhausted):
        chat.complete(ask(2))


@pytest.mark.parametrize("limit", range(1, 7))
def test_calls_stop_exactly_at_the_limit_and_a_larger_one_goes_on_without_paying_twice(
    tmp_path: Path, limit: int
) -> None:
    path = tmp_path / "replies.jsonl"
    inner = CountingChat()
    for _ in range(3):  # the same command again and again: nothing more is spent
        chat = LoggedChat(inner, path, ProposerBudgetConfig(calls=limit))
        with pytest.raises(BudgetExhausted) as caught:
            for number in range(7):
                chat.complete(ask(number))
        assert inner.calls == limit == chat.spent().calls
    words = str(caught.value)
    assert words == (
        f"skill.proposer.budget.calls: {limit} of {limit} calls are used; raise it and give the same command to go on"
    )
    chat = LoggedChat(inner, path, ProposerBudgetConfig(calls=7))
    texts = [chat.complete(ask(number)).text for number in range(7)]
    assert inner.calls == 7 and texts == [f"question {n} #{n + 1}" for n in range(7)]


MOST_IN = most_tokens_in(ask(0))
MOST = MOST_IN + 40
SPENT = 27


@pytest.mark.parametrize("limit", [1, MOST - 1, MOST, MOST + SPENT - 1, MOST + SPENT, MOST + 3 * SPENT])
def test_tokens_are_never_exceeded_by_the_next_call(tmp_path: Path, limit: int) -> None:
    inner = CountingChat()
    chat = LoggedChat(inner, tmp_path / "replies.jsonl", ProposerBudgetConfig(calls=None, tokens=limit))
    with pytest.raises(BudgetExhausted, match=r"skill\.proposer\.budget\.tokens: .* raise it"):
        for number in range(10):
            chat.complete(ask(number))
    # the n-th call is made while (n - 1) replies and the dearest next one fit
    assert inner.calls == max(0, (limit - MOST) // SPENT + 1)
    assert chat.spent().tokens_in + chat.spent().tokens_out <= limit


@pytest.mark.parametrize("calls", range(5))
def test_money_is_never_exceeded_by_the_next_call(tmp_path: Path, calls: int) -> None:
    each, dearest = (20 * 3 + 7 * 15) / 1e6, (MOST_IN * 3 + 40 * 15) / 1e6
    prices = {"usd_per_million_in": 3.0, "usd_per_million_out": 15.0}
    usd = dearest + (calls - 0.5) * each
    inner, path = CountingChat(), tmp_path / "replies.jsonl"
    for _ in range(2):
        chat = LoggedChat(inner, path, ProposerBudgetConfig(calls=None, usd=usd, **prices))
        with pytest.raises(BudgetExhausted, match=r"skill\.proposer\.budget\.usd: "):
            for number in range(10):
                chat.complete(ask(number))
        assert inner.calls == calls
    assert chat.spent().usd == pytest.approx(calls * each) and chat.spent().usd <= usd


def test_money_is_counted_at_the_prices_of_its_day(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    LoggedChat(CountingChat(), path, ProposerBudgetConfig(usd_per_million_in=1.0)).complete(ask(1))
    chat = LoggedChat(CountingChat(), path, ProposerBudgetConfig(usd_per_million_in=100.0))
    assert chat.spent().usd == pytest.approx(20 / 1e6)


def test_a_schema_and_long_words_count_towards_the_next_call() -> None:
    assert most_tokens_in(ask(1, reply_schema={"type": "object"})) > most_tokens_in(ask(1))
    wide = ChatRequest(purpose="p", messages=(Message(role="user", content="\u6f22" * 100),))
    assert most_tokens_in(wide) >= 150


def test_an_error_is_neither_stored_nor_counted(tmp_path: Path) -> None:
    inner = CountingChat(fail_at=(1,))
    chat = LoggedChat(inner, tmp_path / "replies.jsonl", ProposerBudgetConfig(calls=1))
    with pytest.raises(EndpointError):
        chat.complete(ask(1))
    assert chat.spent() == Spent() and not (tmp_path / "replies.jsonl").exists()
    assert chat.complete(ask(1)).text == "question 1 #2"


def test_costs_by_purpose_add_up(tmp_path: Path) -> None:
    chat = LoggedChat(CountingChat(), tmp_path / "replies.jsonl", FREE)
    for number, purpose in enumerate(["reflect", "merge", "reflect"]):
        chat.complete(ask(number, purpose))
    parts = chat.by_purpose()
    assert list(parts) == ["merge", "reflect"]
    assert parts["merge"].calls == 1 and parts["reflect"].calls == 2
    assert sum(part.tokens_in for part in parts.values()) == chat.spent().tokens_in == 60


def test_every_torn_last_line_owes_one_reply_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    chat = LoggedChat(CountingChat(), path, FREE)
    for number in range(3):
        chat.complete(ask(number))
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in (last + 1, last + (len(whole) - last) // 2, len(whole) - 2):
        path.write_bytes(whole[:cut])
        inner = CountingChat()
        resumed = LoggedChat(inner, path, ProposerBudgetConfig(calls=3))
        assert [resumed.complete(ask(n)).text for n in range(3)] == ["question 0 #1", "question 1 #2", "question 2 #1"]
        assert inner.calls == 1
        assert len(list(RecordLog(path).read())) == 3


def test_damage_before_the_last_line_and_foreign_records_stop_the_run(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    chat = LoggedChat(CountingChat(), path, FREE)
    for number in range(2):
        chat.complete(ask(number))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"question 0 #1", b"question 0 #9"))
    with pytest.raises(RunFolderError, match="damaged"):
        LoggedChat(CountingChat(), path, FREE)
    foreign = tmp_path / "foreign.jsonl"
    RecordLog(foreign).append([{"kind": "event"}])
    with pytest.raises(RunFolderError, match=r"foreign\.jsonl:1: this record is no reply"):
        LoggedChat(CountingChat(), foreign, FREE)


def test_threads_share_one_budget_and_one_reply_per_question(tmp_path: Path) -> None:
    inner = CountingChat()
    chat = LoggedChat(inner, tmp_path / "replies.jsonl", ProposerBudgetConfig(calls=4))
    replies: list[str] = []
    threads = [threading.Thread(target=lambda n=n: replies.append(chat.complete(ask(n % 4)).text)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inner.calls == 4 and len(replies) == 16 and len(set(replies)) == 4


def test_a_recording_answers_by_what_is_asked_and_not_by_whom_or_how(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    chat = LoggedChat(CountingChat(), path, FREE)
    first = chat.complete(ask(1, temperature=0.7))
    before = path.read_bytes()
    replay = ReplayChat(path)
    assert replay.complete(ask(1)) == first == replay.complete(ask(1, max_tokens=9))
    for other in (ask(2), ask(1, purpose="merge"), ask(1, seed=1), ask(1, reply_schema={})):
        with pytest.raises(EndpointError):
            replay.complete(other)
    assert path.read_bytes() == before


def test_an_unseen_question_names_its_purpose_and_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    LoggedChat(CountingChat(), path, FREE).complete(ask(1))
    unseen = ChatRequest(purpose="merge", messages=(Message(role="user", content="x" * 79 + "yz"),))
    with pytest.raises(EndpointError) as caught:
        ReplayChat(path).complete(unseen)
    assert (
        "'merge'" in str(caught.value)
        and repr("x" * 79 + "y") in str(caught.value)
        and "z" not in str(caught.value)[-60:]
    )


def test_the_identity_of_a_recording_is_its_content(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    chat = LoggedChat(CountingChat(), path, FREE)
    chat.complete(ask(1))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes() + b'{"torn')
    assert ReplayChat(path).identity() == ReplayChat(copy).identity()
    chat.complete(ask(2))
    assert ReplayChat(path).identity() != ReplayChat(copy).identity()
    assert copy.read_bytes().endswith(b'{"torn')  # somebody else's file: read, never mended


def test_a_recording_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"skill\.proposer\.path"):
        ReplayChat(tmp_path / "none.jsonl")


def test_a_log_over_a_recording_makes_the_same_log_again(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    chat = LoggedChat(CountingChat(), path, FREE)
    replies = [chat.complete(ask(n)) for n in range(3)]
    again = LoggedChat(ReplayChat(path), tmp_path / "again.jsonl", FREE)
    assert [again.complete(ask(n)) for n in range(3)] == replies and again.spent() == chat.spent()


def test_usd_without_prices_is_refused_by_the_configuration() -> None:
    with pytest.raises(ValidationError, match="without prices"):
        ProposerBudgetConfig(usd=1.0)
