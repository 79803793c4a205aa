"""OpenAI's Responses API, under /v1/responses: a request has items, and its reply too."""
