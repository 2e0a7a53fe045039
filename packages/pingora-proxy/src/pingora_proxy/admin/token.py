"""The token of the admin interface, from where programs are told their secrets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

__all__ = ["MIN_TOKEN_LENGTH", "AdminToken"]

MIN_TOKEN_LENGTH: Final = 16
"""Characters; 16 of base64 are 96 bits, which nobody guesses over a network."""

# RFC 6750 section 2.1: what can be sent in Authorization.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_MAX_FILE: Final = 4096


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AdminToken:
    """Where the token is: in exactly one of these places.

    Attributes:
        value: The token itself.
        file: A file that has nothing else in it, such as a mounted secret or a credential of
            systemd; read again at a reload.
        environment: Name of the environment variable that holds it.

    Raises:
        ValueError: If there is not exactly one.

    Examples:
        >>> AdminToken(value="0123456789abcdef").read()
        '0123456789abcdef'
    """

    value: str | None = None
    file: str | os.PathLike[str] | None = None
    environment: str | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.value, self.file, self.environment)) != 1:
            msg = "a token has one source: a value, a file or an environment variable"
            raise ValueError(msg)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} from {self.source}>"

    @property
    def source(self) -> str:
        """Where it comes from, for messages; never the token."""
        if self.file is not None:
            return f"file {os.fspath(self.file)}"
        if self.environment is not None:
            return f"environment variable {self.environment}"
        return "the program"

    def read(self) -> str:
        """Get the token.

        Returns:
            It.

        Raises:
            ValueError: If there is none, or it is too short, or cannot be sent in a header; the
                message does not hold it.
        """
        text = self._text().strip()
        if len(text) < MIN_TOKEN_LENGTH:
            msg = f"the token from {self.source} has fewer than {MIN_TOKEN_LENGTH} characters"
            raise ValueError(msg)
        if _TOKEN.fullmatch(text) is None:
            msg = (
                f"the token from {self.source} has other characters than A-Z a-z 0-9 . _ ~ + / - ="
            )
            raise ValueError(msg)
        return text

    def _text(self) -> str:
        if self.value is not None:
            return self.value
        if self.environment is not None:
            return os.environ.get(self.environment, "")
        assert self.file is not None
        try:
            with Path(self.file).open(encoding="utf-8") as file:
                return file.read(_MAX_FILE)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            msg = f"the token's {self.source} cannot be read: {reason}"
            raise ValueError(msg) from error
