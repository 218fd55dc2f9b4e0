"""Local stand-ins for Telegram, the model and the video provider, each used until the real one is set up."""
