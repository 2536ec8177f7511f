"""Model output, names, skill text and messages are hostile: none of them may open a tag, a link or a table cell."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_report_example import example, example_data
from test_report_render import Tree

from hybrid.report.explain import to_text
from hybrid.report.html import to_html
from hybrid.report.markdown import esc, fence, to_markdown
from hybrid.report.schema import Report
from hybrid.report.text import clip, line, visible

CORPUS = [
    "<script>alert(1)</script>",
    "</script><script src=//evil.example/x.js></script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><animate onbegin=alert(1) attributeName=x></svg>",
    "</title></style></svg><script>alert(1)</script>",
    "</desc></title><foreignObject><iframe src=javascript:alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "[click](javascript:alert(1)) ![i](http://evil.example/p.png) <javascript:alert(1)>",
    "' onmouseover='alert(1)' x='",
    '" autofocus onfocus="alert(1)" x="',
    "]]><!--<!DOCTYPE html>--><![CDATA[",
    "--><script>alert(1)</script><!--",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;b&#62;",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}{# x #}",
    "a | b || c\n| --- | --- |\n| x | y |",
    "```\n</code></pre><b>out</b>\n````\n~~~",
    "`code` ``<b>`` \\` \\| \\<b>",
    "x\n\n<details open ontoggle=alert(1)>\n\n# heading\n\n- item\n\n---\n",
    "user\u202egnp.exe\u202c \u2066iso\u2069 \u200b\u200d\u2060\ufeff zero",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 right to left",
    "bell\x07 esc\x1b[31mred\x1b]0;title\x07 nul\x00 del\x7f nel\x85 cr\rline\u2028sep\u2029",
    "tag \U000e0041\U000e0042 filler \u3164\u115f soft\u00adhyphen private \ue000 non \ufdd0\uffff",
    "lone \ud800 surrogate",
    "http://evil.example/ https://evil.example @everyone #1 $x$ www",
    "=cmd|' /C calc'!A0",
    "-->'\"></textarea></select></noscript></template><base href=//evil.example>",
]
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def poisoned(value, poison):
    """The same data with the poison after every free text and before every free name."""
    fixed = {
        "placement",
        "measured",
        "declared",
        "decision",
        "arm",
        "schema_version",
        "by",
        "chosen",
        "was",
        "now",
        "action",
    }
    named = {
        "profile",
        "profile_was",
        "collateral",
        "shares",
        "slices",
        "thresholds",
        "baselines",
        "versions",
        "hashes",
        "stages",
        "seeds",
        "backward_transfer",
        "entropy",
        "accuracy",
        "tasks",
        "details",
    }
    if isinstance(value, list):
        return [poisoned(v, poison) for v in value]
    if not isinstance(value, dict):
        return f"{value}{poison}" if isinstance(value, str) else value
    out = {}
    for key, inner in value.items():
        free = isinstance(inner, dict) and key in named
        kept = inner if key in fixed else poisoned(inner, poison)
        out[key] = {f"{poison}{k}": v for k, v in kept.items()} if free and isinstance(kept, dict) else kept
    return out


def lived():
    """The example as the second run of its life: a replaced base, and a review before it."""
    data = example_data()
    model, effect = data["model"], {"delta": 0.1, "low": 0.0, "high": 0.2, "n": 50}
    entry = {"when": "run-1", "was": "skill", "now": "weights", "why": "hot", "outcome": "carried out", **effect}
    data["capabilities"][0]["history"] = [
        {"action": "promote", **entry},
        {"action": "replace", **entry, "delta": None, "low": None, "high": None, "n": 0},
    ]
    gain = {"mean": 0.3, "low": 0.2, "high": 0.4, "p": 0.001, "n": 50, "improved": 15, "regressed": 0, "level": 0.95}
    document = {"verdict": "carries over", "gain": gain, "over_control": gain, "ratio": effect}
    data["moves"] = {
        "replaced_from": "run-0",
        "identity": "abc",
        "model": model,
        "capabilities": [
            {
                "name": c["name"],
                "was": "weights",
                "now": c["placement"],
                "why": "told",
                "base_was": None,
                "base_now": c["arms"]["base"] and c["arms"]["base"]["test"],
                "base_change": effect,
                "shipped_was": None,
                "shipped_now": None,
                "shipped_change": None,
                "profile_was": c["profile"],
                "document": document if i == 0 else None,
                "note": "cannot be read" if i == 1 else "",
            }
            for i, c in enumerate(data["capabilities"])
        ],
    }
    return data


def hostile(poison):
    data = poisoned(lived(), poison)
    first = data["capabilities"][0]
    first["gate"][0]["slices"] = {poison: {"delta": -0.1, "low": -0.2, "high": -0.01, "n": 20, "p": 0.01}}
    data["schedule"]["arm"] = poison
    data["schedule"]["backward_transfer"] = {poison: {poison: {"delta": 0.0, "low": -0.1, "high": 0.1, "n": 9}}}
    first["skill_edits"][0].update(target=poison, content=f"{poison}\n{poison}")
    for i, c in enumerate(data["capabilities"]):
        c["name"] = f"{poison}{i}"
    return Report.model_validate(data)


PLAIN = hostile("x")
PLAIN_PAGE = Tree(to_html(PLAIN)).root
ALLOWED = {(n.tag, k, v) for n in PLAIN_PAGE.find() for k, v in n.attributes.items()}
TAGS = {n.tag for n in PLAIN_PAGE.find()}
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PLAIN_TOKENS = PARSER.parse(to_markdown(PLAIN))


def flat(tokens):
    return [inner for t in tokens for inner in [t, *flat(t.children or [])]]


def strong(tokens):
    return sum(t.type == "strong_open" for t in flat(tokens))


@pytest.mark.parametrize("poison", CORPUS, ids=range(len(CORPUS)))
def test_html_keeps_its_shape_whatever_the_text(poison):
    page = to_html(hostile(poison))
    root = Tree(page).root
    for node in root.find():
        assert node.tag in TAGS, f"<{node.tag}> came from the text"
        for name, value in node.attributes.items():
            assert (node.tag, name, value) in ALLOWED or (name, value) == ("class", "u"), (node.tag, name, value)
            assert not name.startswith("on")
            assert not re.search("alert|javascript|evil", value or "")
    assert len(root.find("table")) == len(PLAIN_PAGE.find("table"))
    assert page.count("<style>") == page.count("</style>") == 1


@pytest.mark.parametrize("poison", CORPUS, ids=range(len(CORPUS)))
def test_poison_is_still_readable_in_the_page(poison):
    text = re.sub(r"\s+", " ", Tree(to_html(hostile(poison))).root.text)
    shown = re.sub(r"⟨(U\+\w+)⟩", r"\1", line(poison.replace("\ud800", "\ufffd"), 4000))
    assert re.sub(r"\s+", " ", shown) in text


def no_hidden(text):
    return [f"U+{ord(c):04X}" for c in text if c not in "\n\t" and unicodedata.category(c) in HIDDEN]


@pytest.mark.parametrize("poison", CORPUS, ids=range(len(CORPUS)))
def test_no_hidden_character_survives_in_any_form(poison):
    report = hostile(poison)
    drawn = (to_html(report), to_markdown(report), *(to_text(report, c) for c in report.capabilities))
    for text in drawn:
        assert no_hidden(text) == []


@pytest.mark.parametrize("poison", CORPUS, ids=range(len(CORPUS)))
def test_markdown_keeps_its_shape_even_where_html_is_on(poison):
    tokens = PARSER.parse(to_markdown(hostile(poison)))
    assert [t.type for t in tokens] == [t.type for t in PLAIN_TOKENS], "a block opened or closed"
    inline = {t.type for t in flat(tokens)}
    assert not inline & {"html_block", "html_inline", "link_open", "image", "code_inline", "s_open"}, inline
    assert strong(tokens) == strong(PLAIN_TOKENS)


def own_lines(text):
    """Headings and the first lines of items; long items go on in lines that begin with five blanks."""
    return [row for row in text.split("\n") if not row.startswith("     ")]


@pytest.mark.parametrize("poison", CORPUS, ids=range(len(CORPUS)))
def test_terminal_text_keeps_its_lines(poison):
    report = hostile(poison)
    for c, plain in zip(report.capabilities, PLAIN.capabilities, strict=True):
        assert len(own_lines(to_text(report, c))) == len(own_lines(to_text(PLAIN, plain)))


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_a_markdown_cell_is_one_cell(text):
    table = f"| a | b |\n| --- | --- |\n| {esc(text)} | end |\n"
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table"]).parse(table)
    cells = [tokens[i + 1] for i, t in enumerate(tokens) if t.type == "td_open"]
    assert len(cells) == 2 and cells[1].content == "end"
    assert {c.type for c in cells[0].children} <= {"text", "text_special"}
    content = "".join(c.content for c in cells[0].children)
    assert content == line(text).strip()


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("`~ab<\n|"), max_size=40))
def test_a_fence_is_closed_only_by_itself(text):
    tokens = MarkdownIt("commonmark").parse("\n".join([*fence(text), "after"]))
    assert [t.type for t in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].content == text + "\n"


@settings(deadline=None)
@given(st.text(st.characters(), max_size=80))
def test_visible_leaves_nothing_hidden_and_harms_nothing_else(text):
    shown = visible(text)
    assert no_hidden(shown) == []
    assert visible(shown) == shown
    if "⟨U+" not in text:
        assert re.sub(r"⟨U\+([0-9A-F]+)⟩", lambda m: chr(int(m[1], 16)), shown) == text


@settings(deadline=None)
@given(st.text(max_size=300), st.integers(10, 100))
def test_clip_keeps_both_ends_and_counts_the_rest(text, limit):
    cut = clip(text, limit)
    if len(text) <= limit:
        assert cut == text
    else:
        assert cut.startswith(text[: limit * 2 // 3]) and cut.endswith(text[-(limit - limit * 2 // 3) :])
        assert f"[{len(text) - limit:,} characters more" in cut


def test_ordinary_text_of_any_script_stays_as_it_is():
    for text in ("naïve café", "日本語のテキスト", "Привет", "ελληνικά", "שלום", "emoji 🙂 and ½ + 3"):
        assert visible(text) == text
        assert text in Tree(to_html(hostile(text))).root.text


def test_reports_of_plain_data_hold_no_marks():
    assert "⟨U+" not in to_html(example()) and "⟨U+" not in to_markdown(example())
