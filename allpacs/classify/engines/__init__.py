"""Every module of this package is an engine and declares `allpacs.settings.engines.EngineSettings` as ``Settings``."""
