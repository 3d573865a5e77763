"""The batch server: OpenAI Files and Batches over HTTP, in front of a local model or of other chat servers."""
