"""The report: one file that loads nothing, says what there is to see, and trusts no name."""

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.evaluation.table import Row
from selftaught.reports import plots
from selftaught.reports.page import (
    Section,
    address,
    image,
    page,
    paragraph,
    percent,
    quantity,
    table,
    text,
    write_report,
)
from selftaught.reports.run.sections import (
    activation_section,
    clusters_sections,
    health_section,
    loss_section,
    table_section,
    trained_section,
    views_section,
)
from tests.support.html_page import Page
from tests.support.reports import HOSTILE, metrics, photograph, rows, sections, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("run")).read_text()


@pytest.fixture(scope="module")
def parsed(source) -> Page:
    return Page(source)


def test_the_page_is_well_formed_and_no_name_stands_twice(parsed):
    assert [e.tag for e in parsed.elements[:2]] == ["html", "head"]
    assert {name: n for name, n in Counter(parsed.ids()).items() if n > 1} == {}
    assert len(parsed.all("section")) == len(sections())


def test_nothing_is_loaded_from_elsewhere(source, parsed):
    assert "://" not in source
    assert parsed.all("script") == [] and parsed.all("iframe") == []
    for target in parsed.addresses():
        assert target.startswith(("data:image/", "#")) or target == "data:,", target
    policy = next(e for e in parsed.all("meta") if "http-equiv" in e.attributes)
    assert "default-src 'none'" in policy.attributes["content"]


def test_hostile_names_are_words_and_nothing_else(parsed):
    assert not any(name.startswith("on") for e in parsed.elements for name in e.attributes)
    words = "".join(parsed.words)
    for name in HOSTILE[:4] + HOSTILE[7:]:
        assert name in words
    for shown in ("invoice\\u202egpj.exe", "two\\nlines\\x00.png", "not-utf8-\\udcff.png"):
        assert shown in words


def test_every_picture_has_words(parsed):
    pictures = parsed.all("img")
    assert len(pictures) == 12 * 7 + 2
    assert all(e.attributes["alt"] for e in pictures)
    drawings = parsed.all("svg")
    assert all(e.attributes["role"] == "img" and e.attributes["aria-label"] for e in drawings)


def test_links_of_the_page_lead_somewhere(parsed):
    targets = [a[1:] for a in parsed.addresses() if a.startswith("#")]
    assert targets and set(targets) <= set(parsed.ids())


def test_the_report_is_the_file_of_the_run_and_carries_its_name(tmp_path):
    run = tmp_path / "solar & cells"
    run.mkdir()
    path = write_report(run, [Section("One", paragraph("words"))])
    assert path == run / "report.html"
    assert "<h1>solar &amp; cells" in path.read_text()


def test_the_same_run_writes_the_same_bytes(source, tmp_path):
    assert write(tmp_path).read_text() == source


def test_text_is_escaped_and_keeps_what_people_write():
    assert text("a < b & 'c' \"d\"") == "a &lt; b &amp; &#x27;c&#x27; &quot;d&quot;"
    assert text("Zürich 東京 🐞 0.5") == "Zürich 東京 🐞 0.5"


def test_a_picture_from_elsewhere_is_refused():
    with pytest.raises(AssertionError, match="elsewhere"):
        image("https://example.org/x.png", "x")


def test_the_kind_of_a_picture_is_read_from_its_bytes():
    assert image(photograph(0), "x").startswith('<img src="data:image/webp;base64,')


def test_a_table_marks_its_row_and_sets_figures_flush_right():
    parsed = Page(table(("a", "b"), [("x", 1), ("<i>", 2)], numbers=(1,), marked=(1,)))
    assert [e.attributes.get("class") for e in parsed.all("tr")] == [None, None, "ours"]
    assert [e.attributes.get("class") for e in parsed.all("td")] == [None, "number"] * 2
    assert parsed.all("i") == []


def test_left_out_images_are_listed_up_to_a_limit_and_counted():
    rejected = [(f"{i}.jpg", "empty") for i in range(61)]
    words = Page(trained_section({}, {"usable images": 7}, rejected=rejected).html).words
    assert "61" in words and "61 images were left out" in words
    assert "49.jpg" in words and "50.jpg" not in words
    assert "11 more are in rejected.parquet." in words


def test_nested_options_are_shown_by_their_dotted_names():
    words = Page(trained_section({"a": {"b": {"c": 5}}, "d": None}, {}).html).words
    assert words[-4:] == ["a.b.c", "5", "d", "None"]


def test_the_loss_stands_beside_chance():
    section = loss_section(metrics())
    words = "".join(Page(section.html).words)
    assert "The loss was 5.500 at step 0 and 3.149 at step 195." in words
    assert "5.541 (chance)" in words and "chance" in words.split("(chance)")[1]


def test_a_loss_without_chance_and_a_run_without_steps():
    section = loss_section([{"step": 1, "loss": 2.0, "chance": None}])
    assert "chance" not in section.html
    assert "No step has been logged yet." in loss_section([]).html


def test_alarms_come_before_the_curves_and_silence_is_said():
    html = health_section(metrics(), ["The outputs have collapsed."]).html
    assert html.index("have collapsed") < html.index("<svg") and 'class="bad"' in html
    assert "No alarm was raised" in health_section(metrics(), []).html


def test_health_draws_a_plot_for_each_number_that_was_logged():
    lines = [{"step": s, "spread": 0.5, "effective_rank": None} for s in range(3)]
    drawings = Page(health_section(lines, []).html).all("svg")
    assert [d.attributes["aria-label"].split(" over")[0] for d in drawings] == [
        "Spread of the outputs"
    ]


def clustered(epochs: int = 4) -> list[dict[str, float | None]]:
    """Three lines an epoch, as a method logs that clusters before each."""
    return [
        {
            "step": 3 * epoch + line,
            "epoch": epoch,
            "nmi_last": None if epoch == 0 else 0.2 * epoch,
            "nmi_labels": 0.1 * epoch,
            "entropy": 0.9,
            "largest_share": 0.05,
            "clusters_used": 10,
            "repairs": 0,
            "objective": 1.0 / (epoch + 1),
            "begin_seconds": 2.0 * (epoch + 1),
            "seconds": 2.0 * (epoch + 1) + 6.0 * epoch + 2.0 * line,
        }
        for epoch in range(epochs)
        for line in range(3)
    ]


def test_clusters_have_one_point_an_epoch_and_their_time_beside_training():
    (section,) = clusters_sections(clustered())
    drawings = Page(section.html).all("svg")
    assert [d.attributes["aria-label"] for d in drawings][:2] == [
        "NMI over epochs: with the previous assignment from 0.2 to 0.6, "
        "with the labels from 0 to 0.3",
        "Sizes over epochs: entropy / ln k from 0.9 to 0.9, largest share from 0.05 to 0.05",
    ]
    assert len(drawings) == 5
    words = "".join(Page(section.html).words)
    assert "Clustering took 8.0 s and training 22.0 s: clustering is 27 % of the total." in words
    assert "epoch" in words and "step" not in words


def test_without_labels_or_times_the_clusters_say_the_rest():
    keys = ("step", "epoch", "nmi_last")
    (section,) = clusters_sections([{key: line[key] for key in keys} for line in clustered()])
    (drawing,) = Page(section.html).all("svg")
    assert "labels" not in drawing.attributes["aria-label"]
    assert "Clustering took" not in section.html


def test_a_method_that_does_not_cluster_has_no_such_section():
    assert clusters_sections(metrics()) == clusters_sections([]) == []


def test_hostile_names_are_words_of_what_excites_a_channel():
    page = Page(activation_section([("channel 3", photograph(0), HOSTILE)], "Words.").html)
    (picture,) = page.all("img")
    assert set(picture.attributes) == {"src", "alt", "loading", "decoding"}
    assert page.all("script") == []
    assert picture.attributes["alt"].startswith(
        f"Images that activate channel 3 most: {HOSTILE[0]}, "
    )
    assert "Words." in page.words and "channel 3" in page.words


def test_views_may_be_a_png(tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4), "red").save(tmp_path / "x.png")
    assert "data:image/png;base64," in views_section((tmp_path / "x.png").read_bytes()).html


def test_seeds_become_one_line_with_their_mean_and_widest_interval():
    words = Page(table_section(rows()).html).words
    at = words.index("random init, mean of 3 seeds")
    assert words[at + 1 : at + 5] == ["0.646", "0.611 to 0.675", "+0.051 to +0.122", "4.5"]
    assert words.count("knn: k = 200 was clipped to 131") == 1


def test_an_evaluation_without_intervals_or_rows():
    row = Row("r", "knn", "test", "accuracy", 0, 0.5, None, None, 0.1, "", None, None)
    assert Page(table_section([row]).html).all("svg") == []
    assert "No evaluation has been run." in table_section([]).html


def test_a_protocol_of_many_figures_is_one_table_with_a_line_each():
    names = ("this encoder", "random init", "<i>")
    many = [
        Row(name, "layers", "test", f"conv{n} accuracy", 0, 0.1 * n, 0.05, 0.6, 2.0, "", low, 0.2)
        for name, low in zip(names, (None, 0.1, -0.1), strict=True)
        for n in range(1, 6)
    ]
    page = Page(table_section([*rows(), *many]).html)
    tables = page.all("table")
    assert len(tables) == 3  # knn, linear, layers
    at = page.words.index("layers ")
    assert page.words[at + 2 : at + 9] == [
        *names,
        "conv1 accuracy",
        "0.100 (0.050 to 0.600)",
        "< 0.100 (0.050 to 0.600)",
        "0.100 (0.050 to 0.600)",
    ]
    assert any(word.startswith("< lower than this encoder's") for word in page.words)


def test_intervals_share_a_scale():
    drawn = Page(plots.interval_plot(0.5, 0.25, 1.0, scale=(0.0, 1.0)))
    line, point = drawn.all("line")[0].attributes, drawn.all("circle")[0].attributes
    assert (line["x1"], point["cx"], line["x2"]) == ("39.0", "72.0", "138.0")


def test_a_plot_takes_its_colours_and_font_from_the_page():
    drawn = plots.curves("Loss", {"loss": ([0, 1], [2.0, 1.0])}, alt="falls")
    assert "var(--main)" in drawn and "font-family" not in drawn
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(id=|href=|url\()"?[^")]*', "", drawn)) == []


def test_a_small_learning_rate_keeps_its_digits():
    drawn = plots.curves("Learning rate", {"lr": ([0, 1], [2e-4, 1e-4])}, alt="lr")
    assert "0.00010" in "".join(Page(drawn).words)


def test_a_curve_of_one_point_is_seen():
    one, two = (plots.curves("t", {"t": ([0.0, 1.0][:n], [2.0, 3.0][:n])}, alt="") for n in (1, 2))
    assert one.count("<use") == 1 and two.count("<use") == 0


def test_a_long_curve_is_thinned_and_loses_no_spike():
    values = np.sin(np.arange(100_000) / 5000)
    values[77_777], values[5] = 9.0, math.nan
    steps, kept = plots._thinned_points((np.arange(100_000), values))
    assert len(kept) <= 601 and kept.max() == 9.0 and steps[-1] == 99_999
    assert np.all(np.diff(steps) > 0) and np.isfinite(kept).all()


def test_a_page_without_sections_is_a_page():
    assert Page(page("Title", [])).all("h1")


def test_shares_and_numbers_of_things_in_words():
    shares = [percent(share) for share in (0, 0.0004, 0.0123, 0.0999, 0.1, 0.996, 1)]
    assert shares == ["0 %", "0.04 %", "1.2 %", "10 %", "10 %", "100 %", "100 %"]
    assert [quantity(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]


def test_a_path_may_break_after_its_folders_and_nowhere_else():
    assert address("a/<b>/c d.png") == "a/<wbr>&lt;b&gt;/<wbr>c d.png"


def test_bars_stand_apart_until_they_are_an_area():
    few, many_ = (plots.bars("t", [3.0] * n, alt="alt", over="x") for n in (5, 101))
    bars, area = (drawn.count("var(--main)") for drawn in (few, many_))
    assert (bars, area) == (5, 1) and 'aria-label="alt"' in few
    assert plots.bars("t", [3.0] * 5, alt="alt", over="x") == few


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_names_of_lines_keep_their_order_and_their_distance(heights: list[float]) -> None:
    moved = plots._spaced_heights(heights, 0.12)
    assert all(0 - 1e-9 <= height <= 1 for height in moved)
    ordered = [moved[i] for i in sorted(range(len(heights)), key=heights.__getitem__)]
    assert all(b - a >= 0.12 - 1e-9 for a, b in itertools.pairwise(ordered))


def test_names_that_do_not_crowd_stay_where_their_lines_end() -> None:
    assert plots._spaced_heights([0.5, 0.1, 0.9], 0.12) == [0.5, 0.1, 0.9]
    assert plots._spaced_heights([1.0, 1.0], 0.1) == [0.9, 1.0]


def test_the_name_of_a_line_leaves_room_for_the_plot() -> None:
    assert plots._short_label("random init") == "random init"
    assert plots._short_label("/a/very/long/way/to/an/encoder") == "…/long/way/to/an/encoder"
    assert len(plots._short_label("x" * 300)) == 24
    lines = {name * 300: ([1.0, 2.0], [0.0, 1.0]) for name in "ab"}
    assert "<svg" in plots.curves("Accuracy", lines, alt="two lines")
