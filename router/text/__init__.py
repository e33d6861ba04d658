"""Between text and token ids: tokenizer, chat templates, stop strings, grammars."""
