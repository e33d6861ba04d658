"""From logits to a token: processors, warpers, grammars, positional noise."""
