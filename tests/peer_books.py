"""What stays of the peer when its process is gone; see `sandbox.video_api.charge_log`."""

from sandbox.video_api.charge_log import Books, PeerProcess, clip, running

__all__ = ["Books", "PeerProcess", "clip", "running"]
