"""The names that other modules import."""

from plinth.settings import DEVELOPMENT_SECRET_KEY, AuthProvider, Environment, PlatformSettings, SettingsError

__all__ = ["DEVELOPMENT_SECRET_KEY", "AuthProvider", "Environment", "PlatformSettings", "SettingsError"]
