"""Anthropic's Messages API, over the chats of `router.openai`."""
