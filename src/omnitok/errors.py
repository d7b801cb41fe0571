"""Errors a user can cause and mend. Each carries one sentence: what was named, what was found, what is accepted."""


class OmnitokError(Exception):
    """Base of every error about input, files or the environment; the command line prints it and exits with 1."""


class MediaError(OmnitokError):
    """A picture or clip that cannot be read or written; the message starts with the file's name."""


class CheckpointError(OmnitokError):
    """A model file that is corrupt, foreign, incomplete or of another architecture."""


class MissingWeightsError(OmnitokError):
    """Weights of a feature network that are absent or have the wrong hash; says file, hash, source and option."""


class MissingExtraError(OmnitokError, ImportError):
    """An optional package that is not installed; says the `pip install 'omnitok[extra]'` that mends it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package!r}, which is not installed: pip install 'omnitok[{extra}]'")


class ShardError(OmnitokError):
    """Token shards that are incomplete, damaged, edited, or of another tokenizer; the message names the file."""
