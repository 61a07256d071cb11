"""What is not read is counted by kind, with the first example, in bounded memory."""

from mmray.unread import DOTTED, NAMELESS, OTHERS, SYSTEM, Tally, Unread, kind_of_file, remedy_of


def test_counts_add_up_and_keep_the_first_example():
    tally, other = Tally(), Tally()
    tally.add(".cls members", "a.tar: 0")
    other.add(".cls members", "b.tar: 7", 4)
    other.add(DOTTED, "b.tar: 8")
    tally.add_all(other.counts)
    assert tally.to_json()[".cls members"] == {
        "number": 5,
        "example": "a.tar: 0",
        "remedy": remedy_of(".cls members"),
    }
    assert list(tally.to_json()) == [".cls members", DOTTED]


def test_there_are_never_many_kinds():
    tally = Tally()
    for number in range(1000):
        tally.add(f".x{number} members", "a")
    assert len(tally.counts) < 50
    assert sum(count.number for count in tally.counts.values()) == 1000
    assert tally.counts[OTHERS].number > 900


def test_each_kind_has_its_remedy():
    assert "extensions" in remedy_of(".tga members")
    assert "key_split" in remedy_of(DOTTED)
    assert all("`columns`" in remedy_of(kind) for kind in ("column url", "9 more columns", "feature a/b"))
    assert remedy_of(SYSTEM) == ""
    assert "shard" in remedy_of(kind_of_file("data/a.JSON"))
    assert kind_of_file("data/a.JSON") == ".json files of no record"
    assert (
        kind_of_file("data/README") == kind_of_file("data/.hidden") == "files without a suffix of no record"
    )


def test_the_reason_names_the_thing_and_the_remedy():
    thing = Unread(".tga members", "0001.tga", "image")
    assert thing.reason.startswith("'0001.tga' is there, but not read")
    assert thing.reason.endswith(remedy_of(".tga members"))
    assert thing.is_of_record
    assert not Unread(NAMELESS, "README").is_of_record
