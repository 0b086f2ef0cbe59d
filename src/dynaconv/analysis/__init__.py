"""Look at networks: what they cost."""

from dynaconv.analysis.profile import ModuleProfile, Profile, profile

__all__ = ["ModuleProfile", "Profile", "profile"]
