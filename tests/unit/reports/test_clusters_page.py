"""The report of a clustering: who stands for a cluster, what is told of it, what is left out."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import (
    adjusted_rand_score,
    homogeneity_completeness_v_measure,
    normalized_mutual_info_score,
)

from selftaught.clusters.clusters import Clusters, unit_projection
from selftaught.clusters.fit import ClusteredImages, cluster_vectors
from selftaught.data.open_images import open_images
from selftaught.foundation.machine import Machine
from selftaught.reports.clusters import gallery, members
from selftaught.reports.clusters.clusters_page import (
    Curve,
    choice_section,
    group_sections,
    write_group_report,
)
from selftaught.reports.clusters.members import (
    ALL,
    BORDER,
    ODD,
    TYPICAL,
    Most,
    class_labels,
    merged_assignment,
    shown_clusters,
)
from selftaught.reports.clusters.tiles import pictures_of, shorten
from selftaught.reports.page import Section, page
from selftaught.vectors.vectors import Vectors
from tests.support.html_page import Page
from tests.support.reports import HOSTILE
from tests.support.sets import file_set

pytestmark = pytest.mark.slow

MOST = Most(4, 3, 2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> ClusteredImages:
    """Ten clusters of scikit-learn's digits, by their pixels; every fifth has no label."""
    images = open_images("digits", machine=Machine(cache=tmp_path_factory.mktemp("cache")))
    data, target = load_digits(return_X_y=True)
    labels = tuple(None if i % 5 == 0 else int(t) for i, t in enumerate(target))
    paths = tuple(images.checked.images["path"].to_pylist())
    x_ND = data.astype(np.float32)
    return cluster_vectors(Vectors(x_ND, np.arange(len(x_ND)), paths, labels, "", images), 10)


def told(grouping: ClusteredImages, **others: object) -> list[Section]:
    """The sections, with distances as scores and no duplicates unless they are given."""
    score_N = grouping.assigned.distance_N
    given = {"outlier_N": score_N, "odd_N": score_N > 1.01, "duplicates": [], **others}
    return group_sections(grouping, **given)


def read(sections: list[Section]) -> Page:
    return Page(page("Clusters", sections))


def words(sections: list[Section], title: str) -> str:
    (section,) = [section for section in sections if section.title == title]
    return "".join(Page(section.html).words)


def random_grouping(N: int, K: int, paths: tuple[str, ...] = ()) -> ClusteredImages:
    """N vectors in K clusters without pixels or labels."""
    x_ND = np.random.default_rng(N).normal(size=(N, 6)).astype(np.float32)
    names = paths or tuple(f"folder/{i}.png" for i in range(N))
    return cluster_vectors(Vectors(x_ND, np.arange(N), names, None, ""), K)


# --- who stands for a cluster


def y_of(grouping: ClusteredImages) -> np.ndarray:
    return (
        unit_projection(grouping.vectors.x_ND, grouping.clusters.whitening)
        .numpy()
        .astype(np.float64)
    )


def all_groups(
    grouping: ClusteredImages, duplicates=(), outlier_N=None
) -> list[members.ShownCluster]:
    score_N = grouping.assigned.distance_N if outlier_N is None else outlier_N
    return shown_clusters(grouping, merged_assignment(grouping), score_N, duplicates, MOST)


def test_groups_are_the_clusters_largest_first(digits):
    found = all_groups(digits)
    assert [len(g) for g in found] == sorted(digits.sizes_K.tolist(), reverse=True)
    for g in found:
        own = np.flatnonzero(digits.assigned.cluster_N == g.id)
        assert sorted(g.members_n.tolist()) == own.tolist() and g.clusters == (g.id,)


def test_typical_images_are_near_border_images_nearly_elsewhere_odd_ones_odd(digits):
    y, centroids = y_of(digits), digits.clusters.centroids_KP.numpy().astype(np.float64)
    far_NK = np.linalg.norm(y[:, None] - centroids[None], axis=2)
    outlier_N = np.random.default_rng(0).random(len(y)).astype(np.float32)
    for g in all_groups(digits, outlier_N=outlier_N):
        own = g.members_n
        others = np.delete(far_NK[own], g.id, axis=1).min(axis=1)
        margin = others - far_NK[own, g.id]
        assert g.shown[TYPICAL] == own[np.argsort(far_NK[own, g.id])][:4].tolist()
        assert set(g.shown[BORDER]) == set(own[np.argsort(margin)][:3].tolist())
        assert g.shown[ODD] == own[np.argsort(-outlier_N[own])][:2].tolist()


def test_cohesion_is_the_mean_cosine_of_two_images(digits):
    y = y_of(digits)
    for g in all_groups(digits):
        own = y[g.members_n]
        assert g.cohesion == pytest.approx((own @ own.T).mean(), abs=1e-4)


def test_the_commonest_label_is_of_those_that_have_one_and_ties_are_settled():
    grouping = random_grouping(6, 1)
    labels = (None, "b", "b", "a", "a", "c")
    (g,) = all_groups(replace(grouping, vectors=replace(grouping.vectors, labels=labels)))
    assert (g.label, g.purity) == ("a", pytest.approx(0.4))
    (g,) = all_groups(replace(grouping, vectors=replace(grouping.vectors, labels=(None,) * 6)))
    assert (g.label, g.purity) == ("", 0.0)


def test_near_duplicates_are_counted_once_an_image():
    (g,) = all_groups(random_grouping(8, 1), duplicates=[[0, 1], [5, 6, 7]])
    assert g.doubled == pytest.approx(5 / 8)


def test_whole_numbers_are_classes_and_other_numbers_are_not():
    assert class_labels((1.0, None, 2)) == ["1", None, "2"]
    assert class_labels(("a", True)) == ["a", "True"]
    assert (
        class_labels((1.0, 0.5)) is None
        and class_labels((None, None)) is None
        and class_labels(None) is None
    )
    assert class_labels((float("inf"), 1.0)) is None


def test_clusters_of_one_name_are_one_group_with_a_border_to_the_others(digits):
    named = replace(digits, names={2: "round", 5: "round", 7: "long"})
    found = {g.id: g for g in all_groups(named)}
    assert sorted(found) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert found[2].clusters == (2, 5) and found[2].name == "round" and found[7].name == "long"
    both = np.isin(digits.assigned.cluster_N, (2, 5))
    assert sorted(found[2].members_n.tolist()) == np.flatnonzero(both).tolist()
    y, centroids = y_of(digits), digits.clusters.centroids_KP.numpy()
    far_NK = np.linalg.norm(y[:, None] - centroids[None], axis=2)
    margin_N = (
        np.delete(far_NK, (2, 5), axis=1).min(1)
        - far_NK[np.arange(len(y)), digits.assigned.cluster_N]
    )
    own = np.flatnonzero(both)
    assert set(found[2].shown[BORDER]) == set(own[np.argsort(margin_N[own])][:3].tolist())
    beyond = members.next_groups(named, merged_assignment(named), found[2].shown[BORDER])
    ids_K = np.array([2 if k == 5 else k for k in range(10)])
    for place, id_ in beyond.items():
        order = [i for i in ids_K[np.argsort(far_NK[place])].tolist() if i != 2]
        assert id_ == order[0]


def test_the_nearest_groups_are_those_of_the_nearest_means(digits):
    named = replace(digits, names={2: "round", 5: "round"})
    found, y = all_groups(named), y_of(digits)
    means = np.stack([y[g.members_n].mean(axis=0) for g in found])
    for i, near in enumerate(members.nearest_clusters(named, found, 4)):
        far = np.linalg.norm(means - means[i], axis=1)
        assert near == [j for j in np.argsort(far).tolist() if j != i][:3]
    assert len(members.nearest_clusters(named, found, 4)) == 4


# --- the page


def test_a_wall_a_cluster_and_every_link_leads_somewhere(digits):
    sections = told(digits, duplicates=[[0, 1, 2], [7, 8]])
    assert [section.title for section in sections] == [
        *("Overview", "Clusters", "Near-duplicates", "Outliers", "Next steps"),
    ]
    parsed = read(sections)
    articles = [e.attributes["id"] for e in parsed.all("article")]
    order = np.argsort(-digits.sizes_K, kind="stable")
    assert articles == [f"cluster-{k}" for k in order]
    assert {name: n for name, n in Counter(parsed.ids()).items() if n > 1} == {}
    targets = {a[1:] for a in parsed.addresses() if a.startswith("#")}
    assert targets <= set(parsed.ids()) and set(articles) <= targets
    pictures = parsed.all("img")
    assert len(pictures) >= 10 * 24
    assert all(e.attributes["alt"] and e.attributes["loading"] == "lazy" for e in pictures)


def test_agreement_with_the_labels_is_what_others_compute(digits):
    known = np.array([label is not None for label in digits.vectors.labels])
    label_n = [label for label in digits.vectors.labels if label is not None]
    cluster_n = digits.assigned.cluster_N[known]
    text = words(told(digits), "Overview")
    geometric = normalized_mutual_info_score(label_n, cluster_n, average_method="geometric")
    v_measure = homogeneity_completeness_v_measure(label_n, cluster_n)[2]
    right = sum(Counter(np.array(label_n)[cluster_n == k]).most_common(1)[0][1] for k in range(10))
    assert f"labels of {len(label_n):,} images (10 different labels" in text
    assert f"NMI {geometric:.3f} (geometric mean; arithmetic {v_measure:.3f})" in text
    assert f"ARI {adjusted_rand_score(label_n, cluster_n):.3f}" in text
    assert f"purity {right / len(label_n):.3f}" in text


def test_without_labels_nothing_is_said_of_them():
    sections = told(random_grouping(60, 3))
    assert "labels" not in words(sections, "Overview")
    assert "most common" not in words(sections, "Clusters")


def test_too_many_labels_to_match_leave_out_what_needs_a_matching(monkeypatch, digits):
    monkeypatch.setattr(members, "_CELLS", 50)
    text = words(told(digits), "Overview")
    assert "NMI" in text and "purity" not in text and "accuracy" not in text


def test_names_stand_in_headings_links_and_below_the_border(digits):
    sections = told(replace(digits, names={2: HOSTILE[0], 5: HOSTILE[0]}, notes=(HOSTILE[1],)))
    parsed = read(sections)
    assert len(parsed.all("article")) == 9 and parsed.all("script") == []
    assert "merged by name" in parsed.words and HOSTILE[1] in parsed.words
    assert HOSTILE[0] in parsed.words and f"or {HOSTILE[0]}" in parsed.words
    size = digits.sizes_K[[2, 5]].sum()
    assert any(f"clusters 2, 5: {size} images" in some for some in parsed.words)


def test_hostile_paths_are_words(digits):
    paths = tuple(f"{i} {HOSTILE[i % len(HOSTILE)]}" for i in range(len(digits.vectors)))
    vectors = replace(digits.vectors, paths=paths)
    everything = {"odd_N": np.ones(len(paths), bool), "duplicates": [list(range(40))]}
    for some in (vectors, replace(vectors, images=None)):
        parsed = read(told(replace(digits, vectors=some), **everything))
        assert parsed.all("script") == []
        assert not any(name.startswith("on") for e in parsed.elements for name in e.attributes)
        assert "two\\nlines\\x00.png" in "".join(parsed.words)


def test_without_pixels_paths_stand_in_their_place():
    sections = told(random_grouping(100, 2))
    parsed = read(sections)
    assert parsed.all("img") == []
    assert "so paths are shown" in words(sections, "Clusters")
    shown = {e.attributes["title"] for e in parsed.all("figure") if "title" in e.attributes}
    assert len(shown) >= 2 * 12 and shown <= {f"folder/{i}.png" for i in range(100)}


def test_an_image_that_was_deleted_is_shown_by_its_path(tmp_path):
    images = file_set(tmp_path, 9)
    paths = tuple(images.checked.images["path"].to_pylist())
    x_ND = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    grouping = cluster_vectors(Vectors(x_ND, np.arange(9), paths, None, "", images), 1)
    (tmp_path / "images" / "0003.png").unlink()
    sections = told(grouping, odd_N=np.zeros(9, bool))
    assert "1 image could not be read" in words(sections, "Clusters")
    alts = [e.attributes["alt"] for e in read(sections).all("img")]
    assert sorted(alts) == [p for p in paths if p != "0003.png"]
    assert "0003.png" in read(sections).words


def test_rows_name_the_pixels(tmp_path, digits):
    some = np.array([30, 4, 17])
    vectors = digits.vectors
    part = replace(
        vectors,
        x_ND=vectors.x_ND[some],
        row_N=some,
        paths=tuple(vectors.paths[i] for i in some),
        labels=None,
    )
    pictures = pictures_of(part, [2, 0])
    whole = pictures_of(vectors, [17, 30])
    assert list(pictures) == [2, 0] and list(pictures.values()) == list(whole.values())


def test_pictures_stop_where_the_page_is_full(digits):
    every = pictures_of(digits.vectors, range(30))
    size = sum(len(uri) for uri in every.values())
    assert len(pictures_of(digits.vectors, range(30), size)) == 30
    assert list(pictures_of(digits.vectors, range(30), size - 1)) == list(range(29))
    some = list(pictures_of(digits.vectors, [*range(30), 0, 0], size))  # one is shown thrice
    used = sum(len(every[place]) for place in [*some, 0, 0])
    assert some == list(range(len(some))) and used <= size < used + len(every[len(some)])
    sections = told(digits, most_bytes=size)
    shown = [e.attributes["src"] for e in read(sections).all("img")]
    assert shown and sum(map(len, shown)) <= size
    assert "did not fit on this page" in words(sections, "Clusters")


def test_a_small_cluster_shows_each_image_once():
    (g,) = all_groups(random_grouping(9, 1))
    assert list(g.shown) == [ALL] and sorted(g.shown[ALL]) == list(range(9))


def test_one_cluster_has_no_border_and_no_neighbour():
    sections = told(random_grouping(50, 1))
    text = words(sections, "Clusters")
    assert "Typical" in text and "Most unusual" in text
    assert "On the border" not in text and "nearest:" not in text


def test_a_single_image_is_a_report():
    grouping = random_grouping(1, 1)
    sections = told(grouping, odd_N=np.array([False]))
    parsed = read(sections)
    assert len(parsed.all("article")) == 1
    assert "1 image, 100 %" in parsed.words
    assert not any(some.startswith("Cohesion") for some in parsed.words)
    assert "No near-duplicates." in parsed.words
    assert "No outliers." in parsed.words


def test_where_outliers_cannot_be_told_no_image_is_called_odd_and_none_is_cleared():
    sections = told(random_grouping(39, 1), outlier_N=None, odd_N=None)
    assert "too few images" in words(sections, "Overview")
    assert words(sections, "Outliers") == "There are too few images to detect outliers."
    text = words(sections, "Clusters")
    assert "Typical" in text and "Most unusual" not in text
    (section,) = [section for section in sections if section.title == "Outliers"]
    assert 'class="note"' in section.html


def in_clusters(label_N: np.ndarray) -> ClusteredImages:
    """Random vectors in the clusters that are given."""
    K, grouping = label_N.max() + 1, random_grouping(len(label_N), 2)
    y_NP = unit_projection(grouping.vectors.x_ND, grouping.clusters.whitening)
    c_KP = torch.stack([y_NP[label_N == k].mean(0) for k in range(K)])
    whole: Clusters = replace(grouping.clusters, centroids_KP=c_KP, ids_K=np.arange(K))
    assigned = whole.assign(grouping.vectors.x_ND, own_N=label_N)
    return replace(grouping, clusters=whole, assigned=assigned)


@pytest.fixture(scope="module")
def many_clusters() -> ClusteredImages:
    """700 clusters of 1,400 images."""
    return in_clusters(np.concatenate([np.arange(700), np.arange(350).repeat(2)]))


@pytest.mark.parametrize(("K", "images"), [(100, 12 + 6 + 6), (101, 6 + 3 + 3)])
def test_more_than_a_hundred_walls_have_half_the_images(K, images):
    grouping = in_clusters(np.arange(30 * K) % K)
    section = next(s for s in told(grouping) if s.title == "Clusters")
    assert len(Page(section.html).all("figure")) == K * images


def test_of_many_clusters_the_largest_have_walls_and_the_others_lines(many_clusters):
    sections = told(many_clusters)
    assert len(read(sections).all("article")) == 200
    assert "Images of the 200 largest of 700 clusters" in words(sections, "Clusters")
    smaller = next(section for section in sections if section.title == "Smaller clusters")
    assert len(Page(smaller.html).all("tr")) == 1 + 500
    assert "500 clusters of at most 3 images each." in Page(smaller.html).words
    targets = {a[1:] for a in read(sections).addresses() if a.startswith("#")}
    assert targets <= set(read(sections).ids())


def test_the_table_of_small_clusters_says_where_it_ends(many_clusters, monkeypatch):
    monkeypatch.setattr(gallery, "_ROWS", 40)
    text = words(told(many_clusters), "Smaller clusters")
    assert "The 40 largest are listed; assignments.parquet has all of them." in text


def test_long_lists_are_cut_and_counted():
    grouping = random_grouping(1400, 2)
    twins = [list(range(20)), *([i, i + 1] for i in range(20, 1300, 2))]
    sections = told(grouping, duplicates=twins, odd_N=np.ones(1400, bool))
    text = words(sections, "Near-duplicates")
    assert "1,300 near-duplicates in 641 groups" in text and "remove 659 images" in text
    assert "and 10 more" in text and f"{641 - 560} more are not on this page" in text
    text = words(sections, "Outliers")
    assert "1,400 outliers, highest score first" in text and "The next 500 images" in text
    assert f"{1400 - 548} more are not on this page" in text


def test_outliers_stand_in_their_order_with_their_cluster(digits):
    order = np.argsort(-digits.assigned.distance_N, kind="stable")[:3]
    odd_N = np.isin(np.arange(len(digits.vectors)), order)
    section = next(s for s in told(digits, odd_N=odd_N) if s.title == "Outliers")
    parsed = Page(section.html)
    assert [e.attributes["alt"] for e in parsed.all("img")] == [
        digits.vectors.paths[i] for i in order
    ]
    clusters = digits.assigned.cluster_N[order]
    assert parsed.addresses()[1::2] == [f"#cluster-{k}" for k in clusters]


def test_long_paths_lose_their_middle_only_in_the_walls():
    assert shorten("a" * 200) == "a" * 200
    assert shorten("a" * 5000 + ".png") == "a" * 100 + "…" + "a" * 96 + ".png"
    page_of_long = page("x", told(random_grouping(40, 2, tuple(f"{i:04000}" for i in range(40)))))
    assert len(page_of_long) < 200_000


def test_the_curve_says_why_and_holds_its_numbers():
    curve = Curve([2, 4, 8], [0.9, 0.8, 0.1], [0.3, 0.4, -0.2], [1.0, 0.9, 0.8], 4, "Because <b>.")
    parsed = Page(choice_section(curve).html)
    assert "Because <b>." in parsed.words and parsed.all("b") == []
    assert [e.attributes["aria-label"] for e in parsed.all("svg")] == [
        "stability over k: 0.900 at 2, 0.800 at 4, 0.100 at 8",
        "silhouette over k: 0.300 at 2, 0.400 at 4, -0.200 at 8",
        "entropy over k: 1.000 at 2, 0.900 at 4, 0.800 at 8",
    ]
    assert [e.attributes.get("class") for e in parsed.all("tr")] == [None, None, "ours", None]
    one = Page(choice_section(Curve([3], [1.0], [0.5], [0.9], 3, "One.")).html)
    assert len(one.all("svg")) == 3


def test_the_report_is_written_whole_and_equal_reports_have_equal_bytes(tmp_path, digits):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a = write_group_report(tmp_path / "a", told(digits), "Digits")
    b = write_group_report(tmp_path / "b", told(digits), "Digits")
    assert a == tmp_path / "a" / "report.html" and a.read_bytes() == b.read_bytes()
    assert "<h1>Digits</h1>" in a.read_text()
    assert "://" not in re.sub(r'src="data:[^"]*"', "", a.read_text())
    assert "<h1>c: clusters</h1>" in write_group_report(_made(tmp_path / "c"), []).read_text()


def _made(folder):
    folder.mkdir()
    return folder
