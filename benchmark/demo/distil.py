"""What the draft reads while it is distilled from the target: the target's own outputs.

Rule: decides which prompts the target answers and each family's share; must not know the loss
or the shape of a model. The draft reads what the target writes, greedy and sampled, because it
will have to guess the target's words and not the corpus's. The families have unequal shares on
purpose, so that acceptance differs from one request to the next.
"""

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from benchmark.demo.outputs import outputs
from benchmark.demo.prompts import FAMILIES, examples

SHARES = {"raw": 0.06, "chat": 0.20, "code": 0.24, "long": 0.50}
TEMPERATURES = (0.0, 0.8)
MAX_NEW_TOKENS = 480


def target_outputs(
    target: LlamaForCausalLM, tokenizer: Tokenizer, per_family: int
) -> dict[str, list[list[int]]]:
    """Per family the token ids of training prompts with what the target writes after them.

    Each of `per_family` prompts is answered once greedily and once sampled. They are taken
    evenly from the whole list, so every module has its part.
    """
    answers: dict[str, list[list[int]]] = {}
    for family in FAMILIES:
        training_prompts = [
            e.prompt for e in examples() if e.prompt.family == family and not e.held_out
        ]
        chosen = training_prompts[:: max(1, len(training_prompts) // per_family)][:per_family]
        answers[family] = [
            output.prompt_ids + output.ids
            for temperature in TEMPERATURES
            for output in outputs(target, tokenizer, chosen, MAX_NEW_TOKENS, temperature)
        ]
        print(
            f"target wrote {sum(map(len, answers[family]))} tokens of {family}",
            flush=True,
        )
    return answers


@torch.no_grad()
def share_embedding(target: LlamaForCausalLM, draft: LlamaForCausalLM) -> None:
    """Give the draft the target's embedding, projected on its leading principal directions.

    Two thirds of the draft's weights are its embedding, so this saves it most of its learning.
    """
    wide = target.model.embed_tokens.weight
    narrow = draft.model.embed_tokens.weight
    directions = torch.linalg.svd(wide, full_matrices=False).Vh[: narrow.shape[1]]
    narrow.copy_(wide @ directions.T)
