"""Gold answers in tokens, with a tokenizer small enough to see every id."""

from pathlib import Path

import pytest

from hybrid.capability.types import Example
from hybrid.config.schema import ModelConfig, WeightsConfig
from hybrid.errors import TrainingError
from hybrid.weights.base import TrainJob
from hybrid.weights.encoding import check_lengths, gold_rows, prompt_rows
from hybrid.weights.schedule import plain

BOS, EOS = 1, 2


class Characters:
    """One id per character, except `pairs`, which merge wherever they stand; a begin-of-text token for whole texts."""

    eos_token_id = EOS

    def __init__(self, pairs=()):
        self.pairs = list(pairs)

    def __call__(self, texts, add_special_tokens, padding, truncation):
        assert not padding
        assert not truncation
        return {"input_ids": [[BOS] * add_special_tokens + self.ids(text) for text in texts]}

    def ids(self, text):
        found = []
        while text:
            pair = next((p for p in self.pairs if text.startswith(p)), None)
            found.append(1000 + self.pairs.index(pair) if pair else EOS if text[0] == ";" else ord(text[0]))
            text = text[len(pair or "x") :]
        return found


def make_job(*examples, skill=""):
    settings = ModelConfig(path="reference"), WeightsConfig()
    return TrainJob("cap", examples, skill, plain(len(examples)), None, *settings, 8, 0, Path("out"), "sft")


def ids_of(text):
    return [ord(c) for c in text]


def test_prompts_carry_the_skill_and_one_begin_token():
    (row,) = prompt_rows(make_job(Example(id="a", prompt="q", reference="r"), skill="do\n"), Characters())
    assert row.text == "do\nq"
    assert list(row.ids) == [BOS, *ids_of("do\nq")]


def test_the_answer_follows_the_prompt_and_ends_once():
    job = make_job(
        Example(id="a", prompt="q ", reference="ab"),
        Example(id="b", prompt="q ", reference="ab", gold="cd;"),
    )
    first, second = gold_rows(job, Characters())
    assert list(first.ids) == [BOS, *ids_of("q ab"), EOS]
    assert list(second.ids) == [BOS, *ids_of("q cd"), EOS]
    assert first.prompt == second.prompt == 3


def test_an_answer_that_would_merge_with_its_prompt_is_encoded_alone():
    """`=a` is one token, but generation after the prompt `q=` can only begin with `a`."""
    (row,) = gold_rows(make_job(Example(id="a", prompt="q=", reference="ab")), Characters(pairs=["=a"]))
    assert list(row.ids) == [BOS, *ids_of("q=ab"), EOS]
    assert row.prompt == 3


def test_pieces_within_the_answer_stay_merged():
    (row,) = gold_rows(make_job(Example(id="a", prompt="q=", reference="ab")), Characters(pairs=["ab"]))
    assert list(row.ids) == [BOS, *ids_of("q="), 1000, EOS]


def test_rows_that_cannot_be_read_are_named():
    class Silent(Characters):
        def __call__(self, texts, **_):
            return {"input_ids": [[] for _ in texts]}

    job = make_job(Example(id="first", prompt="q", reference="r"), Example(id="second", prompt="q", reference="r"))
    with pytest.raises(TrainingError, match="'first': the prompt holds no token"):
        prompt_rows(job, Silent())
    check_lengths(job, [5, 5], 5)
    check_lengths(job, [5, 500], None)
    with pytest.raises(TrainingError, match="'second' needs 6 tokens, the model has 5 positions"):
        check_lengths(job, [5, 6], 5)
