"""Stop strings, kept as TGI does and hidden as OpenAI does; 10,000 random Unicode texts."""

from __future__ import annotations

import random

import pytest

from router.text.detokenizer import Detokenizer
from router.text.stop_strings import ExclusiveStops, InclusiveStops
from router.text.tokenizer import Tokenizer
from tests.support.families import EOS, FAMILIES

VOCABULARIES = {name: Tokenizer(tokenizer) for name, tokenizer in FAMILIES.items()}
ALPHABET = "the a.éü世界\u0301😀👩‍👩‍👧🇩🇪 \n\tΩж\u200d"
CASES = 2500
"""Of each family and kind: 10,000 in all."""


def cases(kind: str) -> list[tuple[str, list[str]]]:
    """Random texts and stop strings; half of the latter are parts of their text."""
    rng = random.Random(kind)
    made = []
    for _ in range(CASES):
        text = "".join(rng.choices(ALPHABET, k=rng.randint(0, 24)))
        if rng.random() < 0.2:
            text += chr(rng.choice((rng.randint(0xA0, 0xD7FF), rng.randint(0x10000, 0x1FFFF))))
        stops = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 4))) for _ in range(2)]
        if text and rng.random() < 0.5:
            start = rng.randrange(len(text))
            stops.append(text[start : start + rng.randint(1, 5)])
        made.append((text, stops))
    return made


def ids_of(family: str, text: str) -> list[int]:
    return FAMILIES[family].encode(text, add_special_tokens=False).ids


def shown(
    family: str, ids: list[int], stops: ExclusiveStops | InclusiveStops
) -> tuple[list[str], bool]:
    """The pieces up to the stop, and whether there was one."""
    stream = Detokenizer(VOCABULARIES[family], (), stops)
    pieces = []
    for place, id in enumerate(ids, 1):
        piece = stream.push(id, last=place == len(ids))
        pieces.append(piece.text)
        if piece.stopped:
            return pieces, True
    return pieces, False


@pytest.mark.parametrize("family", FAMILIES)
def test_exclusive_stops_end_the_text_before_the_first_match_and_emit_no_part_of_it(
    family: str,
) -> None:
    for text, stops in cases(f"hidden {family}"):
        ids = ids_of(family, text)
        whole = FAMILIES[family].decode(ids)
        places = [whole.find(stop) for stop in stops if stop in whole]
        hidden = ExclusiveStops(stops)
        pieces, stopped = shown(family, ids, hidden)
        assert stopped == bool(places)
        joined = "".join(pieces)
        assert joined == hidden.text
        assert "\ufffd" not in joined
        if not stopped:
            assert joined == whole
        else:  # a stop that ends first may begin later than another
            ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
            assert whole.startswith(joined)
            assert len(joined) <= min(ends)
            assert not any(stop in joined for stop in stops)
            assert any(whole[len(joined) :].startswith(stop) for stop in stops)


@pytest.mark.parametrize("family", FAMILIES)
def test_inclusive_stops_end_the_text_after_the_token_that_completes_one(family: str) -> None:
    for text, stops in cases(f"kept {family}"):
        ids = ids_of(family, text)
        whole = FAMILIES[family].decode(ids)
        kept = InclusiveStops(stops)
        pieces, stopped = shown(family, ids, kept)
        assert stopped == any(stop in whole for stop in stops)
        assert "".join(pieces) == kept.text
        assert "\ufffd" not in kept.text
        if not stopped:
            assert kept.text == whole
        else:
            assert any(stop in kept.text for stop in stops)
            assert not any(stop in "".join(pieces[:-1]) for stop in stops)


def test_text_is_held_back_only_while_it_may_become_a_stop() -> None:
    stops = ExclusiveStops(["\n\n", "end."])
    pushed = [stops.push(piece, special=False, last=False)[0] for piece in ("a\n", "b e", "n", "t")]
    assert pushed == ["a", "\nb ", "", "ent"]


def test_held_text_is_emitted_with_the_last_token() -> None:
    stops = ExclusiveStops(["END"])
    assert stops.push("an EN", special=False, last=False) == ("an ", False)
    assert stops.push(EOS, special=True, last=True) == ("EN", False)


def test_special_tokens_are_left_out_unless_visible_and_may_be_stops() -> None:
    stops = ExclusiveStops([EOS], visible_tokens={"<call>"})
    assert stops.push("<call>", special=True, last=False) == ("<call>", False)
    assert stops.push("<pad>", special=True, last=False) == ("", False)
    assert stops.push(EOS, special=True, last=False) == ("", True)
    assert stops.text == "<call>"


def test_a_stop_is_found_across_a_hidden_special_token() -> None:
    stops = ExclusiveStops(["abcd"])
    assert stops.push("xab", special=False, last=False) == ("x", False)
    assert stops.push("<pad>", special=True, last=False) == ("", False)
    assert stops.push("cd", special=False, last=False) == ("", True)


@pytest.mark.parametrize("kind", [ExclusiveStops, InclusiveStops])
def test_the_stop_string_that_ended_the_text_is_known(kind: type) -> None:
    stops = kind(["zz", "lo w"])
    assert stops.push("hello", special=False, last=False)[1] is False
    assert stops.matched is None
    assert stops.push(" world", special=False, last=False)[1] is True
    assert stops.matched == "lo w"


def test_of_several_stop_strings_the_first_in_the_text_is_the_one_that_ended_it() -> None:
    stops = ExclusiveStops(["c", "ab"])
    assert stops.push("xabc", special=False, last=False) == ("x", True)
    assert stops.matched == "ab"


def test_a_special_token_may_be_the_stop_string_that_ended_the_text() -> None:
    stops = ExclusiveStops(["<|end|>"])
    assert stops.push("<|end|>", special=True, last=False) == ("", True)
    assert stops.matched == "<|end|>"
