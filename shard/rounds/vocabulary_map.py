"""Between the ids of target and draft: tokens go to the draft, its logits come back.

Everything that is decided (processors, noise, acceptance) is decided on the target's ids, so a
draft couples to the target whatever its own numbers. What the draft cannot say has the logit
-inf. A token that it cannot read is fed as token 0; after such a token a row does not draft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


class VocabularyMap:
    """Translates between `target` and `draft` ids, given as sizes of the two models' logits.

    `pairs` maps target ids to draft ids; None means that equal ids are equal tokens and that the
    sizes differ at most by padding.
    """

    def __init__(
        self,
        target: int,
        draft: int,
        draft_id_by_target: Mapping[int, int] | None,
        device: torch.device,
    ) -> None:
        self._target, self._draft = target, draft
        self._draft_ids: list[int] | None = None
        """Draft id of each target id, -1 where there is none."""
        if draft_id_by_target is not None:
            draft_id_by_target = {
                a: b for a, b in draft_id_by_target.items() if a < target and b < draft
            }
            self._draft_ids = [draft_id_by_target.get(id, -1) for id in range(target)]
            self._draft_id_tensor = torch.tensor(self._draft_ids, device=device)

    def has_token(self, token: int) -> bool:
        """Whether the draft has a word for the target's `token`."""
        return token < self._draft if self._draft_ids is None else self._draft_ids[token] >= 0

    def to_draft(self, tokens: Sequence[int]) -> Sequence[int]:
        """The draft's ids of the target's `tokens`."""
        if self._draft_ids is not None:
            return [max(0, self._draft_ids[token]) for token in tokens]
        if self._draft < self._target:
            return [token if token < self._draft else 0 for token in tokens]
        return tokens

    def map_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`to_draft` and `knows` of `tokens`, of any shape, where they lie."""
        ids = tokens if self._draft_ids is None else self._draft_id_tensor[tokens]
        known = (ids >= 0) & (ids < self._draft)
        return torch.where(known, ids, 0), known

    def to_target(self, logits: Tensor) -> Tensor:
        """[N, target] logits over the target's ids, from the draft's [N, draft]."""
        if self._draft_ids is not None:
            return logits[:, self._draft_id_tensor.clamp(min=0)].masked_fill(
                self._draft_id_tensor < 0, float("-inf")
            )
        if self._draft < self._target:
            return pad(logits, (0, self._target - self._draft), value=float("-inf"))
        return logits[:, : self._target]
