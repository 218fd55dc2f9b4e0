"""Stand-ins for what costs money or needs a key: Telegram, the model, the video provider."""
