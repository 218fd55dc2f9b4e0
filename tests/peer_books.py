"""What stays of the peer when its process is gone; see `sandbox.video_api.charge_log`."""

from sandbox.video_api.charge_log import FakeProviderProcess, ProviderLog, clip, running_fake_provider

__all__ = ["FakeProviderProcess", "ProviderLog", "clip", "running_fake_provider"]
