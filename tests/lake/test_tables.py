"""The contract that each table states, and the split of a group."""

from arislab.lake import tables


def test_the_split_of_a_group_is_stable_and_about_80_10_10():
    splits = [tables.split_of(f"g{i}") for i in range(20_000)]
    assert splits[:12] == [
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "validation",
        "train",
    ]  # pinned: no release may move a group
    shares = {s: splits.count(s) / len(splits) for s in tables.SPLITS}
    assert abs(shares["train"] - 0.8) < 0.01
    assert abs(shares["test"] - 0.1) < 0.01
    assert splits == [tables.split_of(f"g{i}") for i in range(20_000)]


def test_every_column_is_documented():
    for name, spec in tables.TABLES.items():
        assert spec.doc.startswith("One row per"), name
        assert set(spec.key) <= set(tables.columns_of(name)), name
        assert all(column.doc for column in tables.columns_of(name).values()), name
