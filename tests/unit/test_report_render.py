"""The drawn forms say what the JSON says, are the same bytes every time, and stay small and self-contained."""

import copy
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_report_example import (
    bare,
    bare_capability,
    example,
    example_data,
    saved,
    skill_capability,
    weights_capability,
)

from hybrid.errors import RunFolderError, UsageError
from hybrid.report.html import MOST_BYTES, to_html
from hybrid.report.markdown import to_markdown
from hybrid.report.memory_text import memory_figure
from hybrid.report.render import explain, write_report
from hybrid.report.schema import ARMS, Report
from hybrid.report.text import ARM_NAMES, num, pvalue, signed

VOID = {"meta", "br", "hr", "img", "input", "link", "base", "embed", "source"}


class Node:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.children = tag, dict(attributes), parent, []

    def find(self, tag=None, **wanted):
        """All descendants with this tag and these attributes (underscores stand for hyphens)."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                attributes = {k.replace("_", "-"): v for k, v in wanted.items()}
                if tag in (None, child.tag) and attributes.items() <= child.attributes.items():
                    found.append(child)
                found += child.find(tag, **wanted)
        return found

    @property
    def text(self):
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def value(self):
        """The exact number of the first <data> inside, None when the cell says that there is none."""
        data = self.find("data")
        return float(data[0].attributes["value"]) if data else None


class Tree(HTMLParser):
    """A strict little tree builder: every tag that opens has to close in order."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.root = self.here = Node("root", {}, None)
        self.feed(page)
        self.close()
        assert self.here is self.root, f"<{self.here.tag}> was never closed"

    def handle_starttag(self, tag, attrs):
        node = Node(tag, attrs, self.here)
        assert len(node.attributes) == len(attrs), f"an attribute of <{tag}> is given twice"
        self.here.children.append(node)
        if tag not in VOID:
            self.here = node

    def handle_startendtag(self, tag, attrs):
        self.here.children.append(Node(tag, attrs, self.here))

    def handle_endtag(self, tag):
        assert self.here.tag == tag, f"</{tag}> closes <{self.here.tag}>"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def parsed(report):
    return Tree(to_html(report)).root


def many(count=20):
    """A large report: long outputs, many flips, edits and steps in every capability."""
    capabilities = []
    for i in range(count):
        c = copy.deepcopy(weights_capability() if i % 2 else skill_capability())
        long = [
            {**f, "id": f"{i}-{j}", "after": "<b>&\u202e" * 900, "before": '"long" answer ' * 300}
            for j in range(20)
            for f in c["flips"]["improved"][:1]
        ]
        c.update(name=f"capability-{i}", flips={"improved": long, "regressed": long}, collateral={})
        c["skill_edits"] = skill_capability()["skill_edits"] * 20
        c["skill_text"] = "\n".join(f"- rule {k}: <do> this & that" for k in range(300))
        capabilities.append(c)
    return Report.model_validate({**example_data(), "capabilities": capabilities})


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [example(), bare()], ids=["example", "bare"])
def test_html_has_the_numbers_of_the_json(report):
    root = parsed(report)
    rows = root.find("table", id="verdict-table")[0].find("tbody")[0].find("tr")
    assert len(rows) == len(report.capabilities)
    for number, (c, row) in enumerate(zip(report.capabilities, rows, strict=True), 1):
        assert row.find("th")[0].text == c.name
        for arm in ARMS:
            result = c.arms.of(arm)
            mean = result.test.mean if result and result.test else None
            assert row.find("td", data_arm=arm)[0].value() == mean
        shown = {k: row.find("td", data_of=k)[0].value() for k in ("delta", "p", "regressed", "n", "calls")}
        d = c.delta
        numbers = (
            {"delta": d.mean, "p": d.p, "regressed": d.regressed, "n": d.n}
            if d
            else dict.fromkeys(("delta", "p", "regressed", "n"))
        )
        assert shown == {**numbers, "calls": c.ledger.calls}
        check_section(root.find("section", id=f"c{number}")[0], c)


def check_section(section, c):
    arms = section.find("table", data_arms=None)[0]
    for arm in ARMS:
        row, result = arms.find("tr", data_arm=arm)[0], c.arms.of(arm)
        for which in ("test", "variant"):
            estimate = getattr(result, which) if result else None
            cell = row.find("td", data_of=which)[0]
            assert cell.value() == (estimate.mean if estimate else None)
            if estimate:
                assert f"[{num(estimate.low)}, {num(estimate.high)}] n={estimate.n}" in cell.text
    gates = section.find("table", data_gates=None)
    assert len(gates) == bool(c.gate)
    for g in c.gate:
        row = gates[0].find("tr", data_arm=g.arm)[0]
        cells = {k: row.find("td", data_of=k)[0].value() for k in ("delta", "p", "p_adjusted", "n")}
        assert cells == {"delta": g.delta, "p": g.p, "p_adjusted": g.p_adjusted, "n": g.n}
        assert g.decision in row.text
    probes = section.find("table", data_probes=None)
    shown = [
        (r.find("th")[0].text, r.find("td", data_of="value")[0].value(), r.find("td", data_of="n")[0].value())
        for r in (probes[0].find("tbody")[0].find("tr") if probes else [])
    ]
    assert shown == [(name, p.value, p.n) for name, p in sorted(c.profile.items())]
    stats = section.find("dl", data_delta=None)
    assert len(stats) == bool(c.delta)
    if c.delta:
        for key in ("p", "n", "improved", "regressed"):
            assert stats[0].find("dd", data_of=key)[0].value() == getattr(c.delta, key)


def test_shown_numbers_round_the_exact_ones():
    for data in parsed(example()).find("data"):
        exact, shown = float(data.attributes["value"]), data.text.replace("\u2212", "-").replace(",", "")
        if shown.startswith("<"):
            assert exact < float(shown[1:])
        else:
            digits = len(shown.partition(".")[2])
            assert abs(float(shown) - exact) <= 0.5 * 10**-digits + 1e-12, (shown, exact)


def cells(line):
    return [part.strip().replace("\\", "") for part in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(markdown):
    """Header -> rows for every table, by the heading above it."""
    found, heading, rows = {}, "", []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("|"):
            rows.append(cells(line))
        elif rows:
            found.setdefault(heading, []).append(rows[2:])
            rows = []
    return found


@pytest.mark.parametrize("report", [example(), bare()], ids=["example", "bare"])
def test_markdown_has_the_numbers_of_the_json(report):
    found = tables(to_markdown(report))
    verdicts = found[f"Placement report: {report.run_id}"][0]
    sections = re.split(r"(?m)^## ", to_markdown(report))[1:]
    for c, row, section in zip(report.capabilities, verdicts, sections, strict=False):
        means = [num(r.test.mean) if (r := c.arms.of(a)) and r.test else "—" for a in ARMS]
        assert row[:6] == [c.name, *means, f"**{c.placement}**"]
        if c.delta:
            d = c.delta
            assert row[6] == f"{signed(d.mean)} [{signed(d.low)}, {signed(d.high)}] n={d.n}"
            assert row[7:] == [pvalue(d.p), str(d.regressed), str(c.ledger.calls)]
        else:
            assert row[6:] == ["—", "—", "—", str(c.ledger.calls)]
        inner = tables("## \n" + section)
        for arm, line in zip(ARMS, inner["Arms"][0], strict=True):
            assert ARM_NAMES[arm] in line[0]
            for which, cell in zip(("test", "variant"), line[1:3], strict=True):
                e = getattr(c.arms.of(arm), which) if c.arms.of(arm) else None
                assert cell == (f"{num(e.mean)} [{num(e.low)}, {num(e.high)}] n={e.n}" if e else "—")
        for g, line in zip(c.gate, inner["Ship gate"][0] if c.gate else [], strict=True):
            adjusted = "—" if g.p_adjusted is None else pvalue(g.p_adjusted)
            assert line[:7] == [
                g.arm,
                g.decision,
                signed(g.delta),
                f"[{signed(g.low)}, {signed(g.high)}]",
                pvalue(g.p),
                adjusted,
                str(g.n),
            ]


def test_number_words():
    assert [num(v) for v in (None, 0.0, -0.0, 0.1235, 1e-9, 12_345_678.0)] == [
        "—",
        "0.000",
        "0.000",
        "0.123",
        "1e-09",
        "1.23e+07",
    ]
    assert [signed(v) for v in (None, 0.0, -0.0001, -0.25)] == ["—", "+0.000", "+0.000", "-0.250"]
    assert [pvalue(v) for v in (None, 0.0, 0.0004999, 0.0005, 1.0)] == ["—", "<0.001", "<0.001", "0.001", "1.000"]


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [example(), bare()], ids=["example", "bare"])
def test_page_is_self_contained(report):
    page = to_html(report)
    root = Tree(page).root
    policy = root.find("meta", http_equiv="Content-Security-Policy")[0].attributes["content"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert not [n for t in ("script", "link", "img", "iframe", "object", "form", "base", "use") for n in root.find(t)]
    for node in root.find():
        for name, value in node.attributes.items():
            assert not name.startswith("on"), (node.tag, name)
            assert name not in ("src", "srcset", "action", "formaction", "xlink:href"), name
            assert name != "href" or re.fullmatch(r"#[a-z0-9-]+", value), value
    assert "url(" not in page and "@import" not in page
    assert "http:" not in page and "https:" not in page


@pytest.mark.parametrize("report", [example(), bare()], ids=["example", "bare"])
def test_page_is_accessible(report):
    root = parsed(report)
    assert root.find("html")[0].attributes["lang"] == "en"
    ids = [n.attributes["id"] for n in root.find() if "id" in n.attributes]
    assert len(ids) == len(set(ids))
    for link in root.find("a"):
        assert link.attributes["href"][1:] in ids
    for figure in root.find("svg", role="img"):
        title, description = figure.attributes["aria-labelledby"].split()
        assert figure.find("title", id=title)[0].text and figure.find("desc", id=description)[0].text
    for head in root.find("th"):
        assert head.attributes.get("scope") in ("col", "row")
    for details in root.find("details"):
        assert details.children[0].tag == "summary"
    assert len(root.find("h1")) == 1 and len(root.find("main")) == 1


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_are_readable_in_light_and_dark():
    css = to_html(bare()).partition("<style>")[2].partition("</style>")[0]
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", b)) for b in blocks[:2])
    assert set(light) == set(dark), "a colour is missing in one of the modes"
    pairs = [
        (ink, ground)
        for ink in ("ink", "soft", "skill", "weights", "both", "base", "doubt", "accent")
        for ground in ("paper", "card")
    ]
    pairs += [(k, f"{k}-bg") for k in ("skill", "weights", "both", "doubt")]
    pairs += [("ink", g) for g in ("code", "band", "base-bg", "doubt-bg", "skill-bg", "weights-bg")] + [
        ("soft", "code")
    ]
    for palette in (light, dark):
        low = {pair: round(contrast(palette[pair[0]], palette[pair[1]]), 2) for pair in pairs}
        assert all(ratio >= 4.5 for ratio in low.values()), {p: r for p, r in low.items() if r < 4.5}


def test_twenty_large_capabilities_stay_below_a_megabyte():
    page = to_html(many())
    assert len(page.encode()) < MOST_BYTES
    assert "characters more in placement.json" in page and "lines more in placement.json" in page
    assert len(Tree(page).root.find("section", **{"class": "card cap"})) == 20


def test_undecided_and_null_everywhere_reads_well():
    report = bare()
    page, text = parsed(report).text, to_markdown(report)
    for shown in (page, text):
        assert "undecided" in shown and "not measurable at this size" in shown
        assert not re.search(r"\bNone\b|\bnan\b|\bundefined\b", shown.replace("\nNone.\n", ""))
    assert "No arm was measured" in page


@pytest.mark.parametrize("placement", ["keep", "skill", "weights", "both", "neither", "undecided"])
def test_every_placement_draws_even_without_numbers(placement):
    report = Report.model_validate({**example_data(), "capabilities": [bare_capability("x", placement)]})
    assert placement in parsed(report).text
    assert f"**{placement}**" in to_markdown(report)


def test_long_lists_are_cut_and_counted(tmp_path):
    data = example_data()
    data["capabilities"] = [skill_capability()]
    data["capabilities"][0]["rejected"] *= 100
    data["capabilities"][0]["skill_edits"] *= 30
    report = Report.model_validate(data)
    for text in (parsed(report).text, to_markdown(report)):
        assert "60 more are in placement.json" in text and "80 more" in text
    saved(tmp_path, report)
    assert "and 80 more, in placement.json" in explain(tmp_path, "unit-conversion")


def test_an_empty_report_draws():
    report = Report.model_validate({**example_data(), "capabilities": []})
    assert "0 capabilities" in parsed(report).text and "0 capabilities" in to_markdown(report)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_files_lie_beside_the_json_and_are_byte_stable(tmp_path):
    source = saved(tmp_path, example())
    before = source.read_bytes()
    paths = write_report(tmp_path, ["json", "md", "html", "md"])
    assert paths == {f: tmp_path / "report" / f"placement.{f}" for f in ("json", "md", "html")}
    first = {f: p.read_bytes() for f, p in paths.items()}
    write_report(tmp_path, ["html", "md"])
    assert {f: p.read_bytes() for f, p in paths.items()} == first
    assert first["json"] == before
    assert sorted(p.name for p in source.parent.iterdir()) == ["placement.html", "placement.json", "placement.md"]


def test_bytes_do_not_depend_on_hash_seed_folder_or_locale(tmp_path):
    repository = Path(__file__).parents[2]
    program = "import sys, pathlib; from hybrid.report.render import write_report; "
    program += "write_report(pathlib.Path(sys.argv[1]), ['md', 'html'])"
    drawn = []
    for seed, locale in (("0", "C"), ("12345", "C.UTF-8")):
        run = tmp_path / seed
        saved(run, example())
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "LC_ALL": locale,
            "TZ": "Asia/Tokyo",
            "PYTHONPATH": str(repository),
        }
        subprocess.run(
            [sys.executable, "-c", program, str(run)], check=True, env=environment, cwd=run, capture_output=True
        )
        drawn.append({f: (run / "report" / f"placement.{f}").read_bytes() for f in ("md", "html")})
    assert drawn[0] == drawn[1]
    assert drawn[0]["html"] == to_html(example()).encode()


def test_key_order_of_the_data_does_not_matter():
    def turned(value):
        if isinstance(value, dict):
            return {k: turned(value[k]) for k in reversed(list(value))}
        return [turned(v) for v in value] if isinstance(value, list) else value

    other = Report.model_validate(turned(example_data()))
    assert (to_html(other), to_markdown(other), other.to_json()) == (
        to_html(example()),
        to_markdown(example()),
        example().to_json(),
    )


def test_unknown_format_is_a_usage_error_and_writes_nothing(tmp_path):
    saved(tmp_path, example())
    with pytest.raises(UsageError, match=r"'htm'; did you mean 'html'\?"):
        write_report(tmp_path, ["md", "htm"])
    assert not (tmp_path / "report" / "placement.md").exists()


def test_links_are_refused(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    saved(outside, example())
    run.mkdir()
    (run / "report").symlink_to(outside / "report")
    for attempt in (lambda: write_report(run, ["md"]), lambda: explain(run, "tone")):
        with pytest.raises(RunFolderError, match="symbolic link"):
            attempt()
    inside = tmp_path / "inside"
    saved(inside, example())
    target = tmp_path / "victim.txt"
    target.write_text("precious")
    (inside / "report" / "placement.html").symlink_to(target)
    with pytest.raises(RunFolderError, match="symbolic link"):
        write_report(inside, ["md", "html"])
    assert target.read_text() == "precious"
    assert not (inside / "report" / "placement.md").exists()


def test_absent_report_says_what_to_do(tmp_path):
    with pytest.raises(RunFolderError, match="start it again"):
        write_report(tmp_path, ["html"])


def test_memory_of_a_training_is_drawn_as_predicted_and_as_measured():
    capability = next(c for c in example().capabilities if c.training and c.training.memory)
    figure = str(memory_figure(capability, "m"))
    widths = [float(w) for w in re.findall(r'class="bar"[^>]* width="([\d.]+)"', figure)]
    assert len(widths) == 2 and widths[1] / widths[0] == pytest.approx(1987 / 2345, abs=0.01)
    sentence = "Memory beside the base, passes of 12 rows: predicted 2,345 MiB, measured 1,987 MiB."
    assert sentence in to_html(example()) and sentence in to_markdown(example())
    half = capability.training.memory.model_copy(update={"predicted_mib": None})
    one = capability.model_copy(update={"training": capability.training.model_copy(update={"memory": half})})
    assert str(memory_figure(one, "m")).count('class="bar"') == 1
    none = capability.model_copy(update={"training": capability.training.model_copy(update={"memory": None})})
    assert not memory_figure(none, "m")
