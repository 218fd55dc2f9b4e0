"""Takes the package from the folder `guardrails/` of the repository, or from a source distribution."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "onetake_guardrails"


class FolderHook(BuildHookInterface):
    """One folder, two import names: it imports itself relatively."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder under the name by which it is imported."""
        del version
        unpacked = Path(self.root, PACKAGE)
        folder = unpacked if unpacked.is_dir() else Path(self.root).parents[1] / "guardrails"
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                build_data["force_include"][str(path)] = f"{PACKAGE}/{path.relative_to(folder).as_posix()}"
