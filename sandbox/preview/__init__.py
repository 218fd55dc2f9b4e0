"""The preview provider: draws labelled previews for test credits, and keeps a charge log."""
