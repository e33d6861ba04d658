"""OpenAI's routes: bodies to Requests, Records to OpenAI's shapes; unknown to native routes."""
