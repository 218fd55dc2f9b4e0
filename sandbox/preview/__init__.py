"""The preview provider: renders labeled previews for test credits, and keeps a charge log."""
