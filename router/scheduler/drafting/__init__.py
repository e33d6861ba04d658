"""How many tokens each row drafts, and what a Step costs."""
