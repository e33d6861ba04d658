"""Names of pages: equal for equal prefixes, however the tokens came, and for nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from router.dispatch.page_hashes import PageHasher

tokens = st.lists(st.integers(0, 2**31 - 1), max_size=40)


@given(tokens, st.data())
def test_names_do_not_depend_on_how_the_tokens_came(ids: list[int], data: st.DataObject) -> None:
    whole, parts = PageHasher(4).add(ids), PageHasher(4)
    cut = data.draw(st.integers(0, len(ids)))
    assert parts.add(ids[:cut]) + parts.add(ids[cut:]) == whole
    assert len(whole) == len(ids) // 4


@given(tokens, tokens)
def test_a_name_stands_for_every_token_before_it(one: list[int], other: list[int]) -> None:
    pairs = zip(PageHasher(4).add(one), PageHasher(4).add(other), strict=False)
    for page, (left, right) in enumerate(pairs, 1):
        assert (left == right) == (one[: 4 * page] == other[: 4 * page])


def test_requests_under_different_salts_share_no_name() -> None:
    ids = range(40)
    names = [set(PageHasher(4, salt).add(ids)) for salt in ("", "one", "two")]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
