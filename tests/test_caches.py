"""Every cache of the product is bounded in bytes, or named here with the reason why it needs none.

Caches are found on the syntax trees: `functools`' decorators, and ordered dictionaries, of which
the only use here is dropping the oldest entry.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from router.text import grammar as router_grammar
from shard.attention import sdpa_row
from shard.attention.visibility import EVERY_KEY
from shard.bounded_cache import BoundedCache
from shard.sampling import grammar, processors
from tests.support.paths import ROOT

FILES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("router/**/*.py"), *ROOT.glob("shard/**/*.py"), ROOT / "launcher.py")
)
MAKERS = {"lru_cache", "cache", "OrderedDict", "BoundedCache", "WeakValueDictionary"}
CACHES = {
    "router/http/openapi_document.py: cache": "one document of a program",
    "router/text/grammar.py: OrderedDict": "bounded by MAX_CACHED_BYTES",
    "shard/bounded_cache.py: OrderedDict": "the bounded cache itself",
    "shard/attention/sdpa_row.py: BoundedCache": "bounded by _MAX_CACHED_MASK_BYTES",
    "shard/sampling/grammar.py: BoundedCache": "bounded by MAX_CACHED_BYTES",
    "shard/sampling/processors.py: BoundedCache": "bounded by _MAX_GREEN_LIST_BYTES",
    "shard/model/attention_adapters/adapter_table.py: cache": "one entry for each adapter",
    "shard/wire/codec.py: cache": "one entry for each type of the protocol, which are fixed",
    **{
        f"shard/model/attention_adapters/{family}.py: lru_cache": "one value for each head"
        for family in ("bloom", "falcon", "mpt")
    },
}
"""Where caches are, and why they are bounded."""
MAX_BYTES = 256 << 20
"""Maximum size of all caches of one process, which operators need not be told of."""


def caches(path: Path) -> Iterator[str]:
    """The names in `path` that make a cache, but for those in imports and annotations."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        uses = [node.func] if isinstance(node, ast.Call) else getattr(node, "decorator_list", [])
        for use in uses:
            called = use.func if isinstance(use, ast.Call) else use
            inner = called.value if isinstance(called, ast.Subscript) else called
            name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "")
            if name in MAKERS:
                yield f"{path}: {name}"


def test_every_cache_is_bounded_in_bytes() -> None:
    assert {found for path in FILES for found in caches(path)} == CACHES.keys()


@pytest.mark.parametrize(
    "source",
    ["@lru_cache\ndef f(): ...", "@functools.cache\ndef f(): ...", "x = lru_cache(4)(f)"],
)
def test_a_new_cache_is_found(source: str, tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(source)
    assert len(set(caches(file))) == 1


def test_the_caches_of_a_process_are_small_together() -> None:
    of_shards = (
        grammar.MAX_CACHED_BYTES,
        processors._MAX_GREEN_LIST_BYTES,
        sdpa_row._MAX_CACHED_MASK_BYTES,
    )
    assert sum(of_shards) <= MAX_BYTES
    assert router_grammar.MAX_CACHED_BYTES <= MAX_BYTES


def test_masks_of_long_contexts_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = BoundedCache[sdpa_row._MaskKey, torch.Tensor](1 << 20, lambda _, mask: mask.nbytes)
    monkeypatch.setattr(sdpa_row, "_masks", masks)
    like = torch.zeros((), dtype=torch.float32)
    for count, length, group in ((2, 300, 1), (16, 4096, 2), (16, 30_000, 4), (3, 20_000, 1)):
        mask = sdpa_row.causal_mask(count, length, EVERY_KEY, group, like)
        expected = sdpa_row._build_mask(count, length, EVERY_KEY, group, like.dtype, like.device)
        assert torch.equal(mask, expected)
        assert masks.size <= 1 << 20
    assert len(masks) == 3


def test_green_lists_keep_only_what_they_hold() -> None:
    """A slice of a permutation would keep all of it in memory."""
    ids = processors.green_list(1, 1000, 0.25)
    assert ids.untyped_storage().nbytes() == ids.nbytes == 250 * 8
