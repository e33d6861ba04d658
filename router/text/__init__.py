"""Text processing: tokenizer, detokenizer, chat templates, stop strings, grammars."""
