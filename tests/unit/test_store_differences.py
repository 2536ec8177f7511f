"""Field diffs: every leaf, both values, nothing that a terminal would obey."""

from hybrid.store.differences import differences, list_differences, shown


def lines(old, new):
    return [str(d) for d in differences(old, new)]


def test_every_leaf_is_named_with_both_values():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None, "gone": True}
    new = {"a": {"b": 1.5, "c": [1, 3]}, "d": "x", "come": []}
    assert lines(old, new) == [
        "a.b: 1 -> 1.5",
        "a.c[1]: 2 -> 3",
        "come: absent -> []",
        'd: null -> "x"',
        "gone: true -> absent",
    ]
    assert lines(old, old) == []


def test_null_and_absent_differ():
    assert lines({"a": None}, {}) == ["a: null -> absent"]


def test_lists_of_other_lengths_and_other_types_differ_as_a_whole():
    assert lines({"a": [1]}, {"a": [1, 2]}) == ["a: [1] -> [1, 2]"]
    assert lines({"a": {"b": 1}}, {"a": 1}) == ['a: {"b": 1} -> 1']


def test_values_are_short_and_harmless():
    assert shown("0123456789ab" * 6)[:13] == '"0123456789ab', "72 digits are no digest"
    assert shown("ab" * 32) == "abababababab..."
    assert shown("x\x1b[31m\n") == '"x\\u001b[31m\\n"'
    assert len(shown("long " * 100)) == 60


def test_many_differences_are_counted():
    found = differences({f"k{i}": 0 for i in range(10)}, {f"k{i}": 1 for i in range(10)})
    assert list_differences(found).endswith("k7: 0 -> 1; and 2 more")
