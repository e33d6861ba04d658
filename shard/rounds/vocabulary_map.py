"""Maps between the token ids of target and draft: tokens one way, logits the other.

Everything that is decided (processors, noise, acceptance) is decided on the target's ids, so a
draft couples to the target whatever its own numbering. A token that the draft vocabulary lacks has
the logit -inf. Such a token is fed to the draft as token 0, and a row does not draft after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


class VocabularyMap:
    """Translates between `target` and `draft` ids, given as sizes of the two models' logits.

    `draft_id_by_target` maps ids of equal tokens; None means that equal ids are equal tokens and
    that the sizes differ at most by padding.
    """

    def __init__(
        self,
        target: int,
        draft: int,
        draft_id_by_target: Mapping[int, int] | None,
        device: torch.device,
    ) -> None:
        self.target_size = target
        """Size of the target's logits."""
        self._draft_size = draft
        self._draft_ids: list[int] | None = None
        """Draft id of each target id, -1 where there is none."""
        if draft_id_by_target is not None:
            draft_ids = {a: b for a, b in draft_id_by_target.items() if a < target and b < draft}
            self._draft_ids = [draft_ids.get(id, -1) for id in range(target)]
            self._draft_id_tensor = torch.tensor(self._draft_ids, device=device)

    def has_token(self, token: int) -> bool:
        """Whether the draft vocabulary has the target's `token`."""
        return token < self._draft_size if self._draft_ids is None else self._draft_ids[token] >= 0

    def to_draft(self, tokens: Sequence[int]) -> Sequence[int]:
        """The draft's ids of the target's `tokens`; 0 where there is none."""
        if self._draft_ids is not None:
            return [max(0, self._draft_ids[token]) for token in tokens]
        if self._draft_size < self.target_size:
            return [token if token < self._draft_size else 0 for token in tokens]
        return tokens

    def map_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`to_draft` and `has_token` of `tokens`, int64 of any shape, on their device."""
        ids = tokens if self._draft_ids is None else self._draft_id_tensor[tokens]
        known = (ids >= 0) & (ids < self._draft_size)
        return torch.where(known, ids, 0), known

    def to_target(self, logits: Tensor) -> Tensor:
        """[N, target size] logits over the target's ids, from the draft's [N, draft size]."""
        if self._draft_ids is not None:
            return logits[:, self._draft_id_tensor.clamp(min=0)].masked_fill(
                self._draft_id_tensor < 0, float("-inf")
            )
        if self._draft_size < self.target_size:
            return pad(logits, (0, self.target_size - self._draft_size), value=float("-inf"))
        return logits[:, : self.target_size]
