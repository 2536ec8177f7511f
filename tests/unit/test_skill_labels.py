from __future__ import annotations

import random
from collections.abc import Sequence

from test_skill_proposer import NO, Bench
from test_skill_world import OPS, VOCABULARY, World, vocabulary, world

from hybrid.capability.types import Example
from hybrid.skill.edits import Append, apply
from hybrid.skill.proposer import OfflineProposer
from hybrid.skill.reflection import FailureLabel, RejectedEdit, TrialBook, body_hash
from hybrid.skill.vocabulary import Vocabulary

RULES = 'slots: ["^(?:q|ask) (?P<name>[A-Z][a-z]+)"]\nrules:\n' + "\n".join(f'  - "rule {{name}}: {op}."' for op in OPS)
FACTS = 'slots: ["^ask (?P<name>[A-Z][a-z]+)"]\nfacts: ["fact {name}: {reference}."]\n'
PLAIN = 'slots: ["^(?P<name>NEVER)"]\nrules: ["Answer in capitals.", "Be brief."]\n'


class Forgetful(World):
    """Does not follow any document on long prompts, whatever it says."""

    def answer(self, body: str, prompt: str) -> str:
        return "?" if len(prompt.split()[-1]) >= 5 else super().answer(body, prompt)


def labels(bench: Bench, words: Vocabulary | None = None, **options: object) -> dict[str, FailureLabel]:
    context = bench.context(**options)  # type: ignore[arg-type]
    found = OfflineProposer(words or vocabulary(RULES), 4, 0).propose(context).labels
    assert len({label.example_id for label in found}) == len(found)
    assert {label.example_id for label in found} <= {view.example.id for view in context.failures}
    return {label.example_id: label for label in found}


def kinds(found: dict[str, FailureLabel], rows: Sequence[Example], name: str) -> set[str]:
    return {found[e.id].kind for e in rows if name in e.prompt_text and e.id in found}


def test_without_a_document_every_failure_is_a_defect() -> None:
    bench = Bench(world(3))
    found = labels(bench, failures=30)
    assert len(found) == 30 and {label.kind for label in found.values()} == {"defect"}
    assert all(label.why.startswith("an edit mends it: rule for name ") for label in found.values())


def test_a_rule_that_is_there_and_not_followed_is_a_lapse() -> None:
    w = Forgetful(rules={"Kar": "@rev", "Lim": "@sort"})
    bench = Bench(w, "rule Kar: @rev.\n")
    found = labels(bench, failures=48)
    long = [e for e in bench.train if len(e.prompt_text.split()[-1]) >= 5]
    assert len([e for e in long if "Kar" in e.prompt_text]) > 5
    assert kinds(found, bench.train, "Kar") == {"lapse"} and kinds(found, bench.train, "Lim") == {"defect"}
    assert {e.id for e in long if "Kar" in e.prompt_text} == {i for i, label in found.items() if label.kind == "lapse"}
    assert "a line about name Kar, and no tried draft beats it" in next(
        label.why for label in found.values() if label.kind == "lapse"
    )


def test_a_wrong_rule_is_a_defect() -> None:
    bench = Bench(World(rules={"Kar": "@rev"}), "rule Kar: @twin.\n")
    assert kinds(labels(bench), bench.train, "Kar") == {"defect"}


def test_no_line_and_no_draft_that_helps_is_a_defect_still() -> None:
    bench = Bench(Forgetful(rules={"Kar": "@rev"}))
    bench.train = tuple(e for e in bench.train if len(e.prompt_text.split()[-1]) >= 5)
    found = labels(bench)
    assert {label.kind for label in found.values()} == {"defect"}
    assert {label.why for label in found.values()} == {"no line of the document is about name Kar"}


def test_rules_that_were_not_compared_yet_give_no_label() -> None:
    w = Forgetful(rules=dict.fromkeys(("Kar", "Lim", "Mos", "Nel"), "@rev"))
    body = "".join(f"rule {name}: @rev.\n" for name in w.rules)
    bench = Bench(w, body)
    first = labels(bench, budget=1, failures=48)
    assert len({e.prompt_text.split()[1] for e in bench.train if e.id in first}) == 2, "twice the budget of groups"
    assert {label.kind for label in first.values()} == {"lapse"}
    assert set(labels(bench, budget=1, failures=48)) > set(first), "the next look compares the others"


def test_a_missing_line_for_every_example_is_not_called_a_lapse_of_a_rule_about_one() -> None:
    w = Forgetful(rules={"Kar": "@rev"}, capitals=True)
    bench = Bench(w, "rule Kar: @rev.\n")
    assert labels(bench, vocabulary(VOCABULARY), failures=48) == {}, "it mends some rows: which ones is not known"
    settled = Bench(World(rules={"Kar": "@rev"}, capitals=True), "rule Kar: @rev.\n")
    found = labels(settled, vocabulary(VOCABULARY))
    assert len(found) == 8 and all("for every example" in label.why for label in found.values())


def test_rows_about_nothing_are_labelled_only_by_lines_for_every_example() -> None:
    w = World(rules={"Kar": "@rev"}, capitals=True)
    words = vocabulary(PLAIN)
    told = labels(Bench(w, "rule Kar: @rev.\n"), words)
    assert len(told) == 8 and {label.kind for label in told.values()} == {"defect"}
    assert labels(Bench(w), words) == {}, "no plain line mends anything without the rule"
    deaf = Forgetful(rules={"Kar": "@rev"}, capitals=True)
    lapsed = labels(Bench(deaf, "rule Kar: @rev.\nAnswer in capitals.\n"), words)
    assert len(lapsed) == 8 and {label.kind for label in lapsed.values()} == {"lapse"}
    assert labels(Bench(deaf, "rule Kar: @rev.\nSome words.\n"), words, failures=0) == {}


def test_without_rivals_only_the_rows_own_fact_is_known_to_be_right() -> None:
    class Deaf(World):
        def answer(self, body: str, prompt: str) -> str:
            return "?"

    w = Deaf(facts={"Kar": "v1x", "Lim": "w2y"})
    found = labels(Bench(w, "fact Kar: v1x.\nfact Lim: zzz.\n", rows=2), vocabulary(FACTS))
    assert [label.kind for label in found.values()] == ["lapse"], "one row each: no fact is supported, no draft is made"
    assert labels(Bench(w, "Kar and Lim are names.\n", rows=2), vocabulary(FACTS)) == {}


def test_a_line_of_a_protected_section_is_a_line_of_the_document() -> None:
    w = Forgetful(rules={"Kar": "@rev"})
    bench = Bench(w, "<!-- protected:start core -->\nrule Kar: @rev.\n<!-- protected:end -->\n")
    bench.train = tuple(e for e in bench.train if len(e.prompt_text.split()[-1]) >= 5)
    assert {label.kind for label in labels(bench).values()} == {"lapse"}


def test_what_a_gate_turned_down_does_not_make_a_defect() -> None:
    class Half(Forgetful):
        def answer(self, body: str, prompt: str) -> str:
            """Some other rule happens to be right on training rows; the gate saw that it is not elsewhere."""
            return self.truth(prompt) if "rule Kar: @twin." in body else super().answer(body, prompt)

    bench = Bench(Half(rules={"Kar": "@rev"}), "rule Kar: @rev.\n")
    assert {label.kind for label in labels(bench).values()} == {"defect"}
    proposed = OfflineProposer(vocabulary(RULES), 4, 0).propose(bench.context()).proposals
    memory = [RejectedEdit(before=body_hash(bench.body), edit=p.edit, verdict=NO) for p in proposed]
    assert memory and {label.kind for label in labels(bench, rejected=memory).values()} == {"lapse"}


def test_failures_that_are_luck_are_not_labelled() -> None:
    luck = 0
    for seed in range(10):
        w = world(seed, noise=0.15)
        bench = Bench(w, "".join(f"{line}\n" for line in sorted(w.lines)))
        failures = len(bench.context().failures)
        luck += failures - len(labels(bench))
    assert luck > 20, "most failures of a right document under noise go away with any change"


def test_a_draft_is_labelled_from_the_trials_that_made_it_and_nothing_is_paid() -> None:
    w = Forgetful(rules={"Kar": "@rev", "Lim": "@sort", "Mos": "@next"})
    bench = Bench(w)
    proposer = OfflineProposer(vocabulary(RULES), 4, 0)
    found = proposer.propose(bench.context(budget=8, failures=48)).proposals
    kept = [p.edit for p in found if isinstance(p.edit, Append) and "Mos" not in p.edit.content]
    bench.body, paid = apply("", kept).body, bench.scores
    told = {label.example_id: label for label in proposer.label(bench.context(failures=48))}
    assert bench.scores == paid
    assert kinds(told, bench.train, "Kar") == kinds(told, bench.train, "Lim") == {"lapse"}
    assert kinds(told, bench.train, "Mos") == {"defect"}
    stranger = Bench(w, bench.body)
    assert kinds({x.example_id: x for x in proposer.label(stranger.context(failures=48))}, bench.train, "Kar") == set()


def test_labels_follow_the_order_of_the_failures_and_repeat() -> None:
    made = []
    for _ in range(2):
        bench = Bench(Forgetful(rules={"Kar": "@rev", "Lim": "@sort"}), "rule Kar: @rev.\n")
        context = bench.context(failures=20)
        made.append(OfflineProposer(vocabulary(RULES), 4, 0).propose(context).labels)
        order = [view.example.id for view in context.failures]
        assert [x.example_id for x in made[-1]] == [i for i in order if i in {x.example_id for x in made[-1]}]
    assert made[0] == made[1]


def test_no_failures_no_labels() -> None:
    w = world(3)
    bench = Bench(w, "".join(f"{line}\n" for line in sorted(w.lines)))
    assert labels(bench) == {} and bench.scores == 0


def test_rows_about_two_things_are_lapses_only_where_both_have_a_rule() -> None:
    class Chain(World):
        def answer(self, body: str, prompt: str) -> str:
            return "?"

    rng = random.Random(1)
    words = vocabulary(RULES.replace("^(?:q|ask) (?P", "\\\\b(?P"))
    for body, kind in [("rule Kar: @rev.\nrule Lim: @next.\n", "lapse"), ("rule Kar: @rev.\n", "defect")]:
        bench = Bench(Chain(rules={"Kar": "@rev", "Lim": "@next"}), body, rows=2)
        prompts = [f"q Kar Lim {''.join(rng.sample('abcdefghij', 5))}" for _ in range(24)]
        bench.train = tuple(Example(id=f"t{i}", prompt=p, reference="x") for i, p in enumerate(prompts))
        assert {label.kind for label in labels(bench, words).values()} == {kind}
        if kind == "lapse":
            bench.book = TrialBook()
            bench.train = tuple(e.model_copy(update={"prompt": f"q Mos{e.prompt_text[1:]}"}) for e in bench.train)
            bench.body += "rule Mos: @rev.\n"
            assert labels(bench, words, budget=1) == {}, "the third rule was not compared"
