"""What to do with the body of a response: leave it, compress it or decompress it.

The client's wishes come from ``Accept-Encoding`` with its weights (RFC 9110 section 12.5.3); the
origin's from ``Content-Type``, ``Content-Encoding`` and ``Cache-Control: no-transform``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias, final

from pingora_core.protocols.http.compression.codec import Algorithm

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pingora_http import HeaderMap, ResponseHeader

__all__ = [
    "MIN_COMPRESS_LENGTH",
    "AcceptEncoding",
    "Action",
    "Compress",
    "Decompress",
    "accept_encoding_of",
    "choose_algorithm",
    "decide_action",
    "forbids_transform",
    "is_compressible",
]

# Below this the container costs more than it saves; the same as upstream.
MIN_COMPRESS_LENGTH: Final = 20

# RFC 9110 section 12.4.2, except that more than three decimals are read, not refused.
_QVALUE: Final = re.compile(r"(?:0(?:\.[0-9]*)?|1(?:\.0*)?)", re.ASCII)
_CODING: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)

_COMPRESSIBLE: Final = re.compile(
    r"text/|application/|font/|image/(?:x-icon|svg\+xml|nd\.microsoft\.icon)|binary/octet-stream"
)
# Events must leave the moment they come, and an event stream has no end at which a compressor's
# window would be given back. gRPC compresses inside its own messages and its clients expect that.
_NEVER: Final = ("text/event-stream", "application/grpc")

# What clients send is one of a few values; longer ones are not worth remembering.
_CACHED_LENGTH: Final = 256


@final
@dataclass(frozen=True, slots=True)
class AcceptEncoding:
    """The codings a client takes, with their weights.

    Attributes:
        weights: The listed codings in the client's order, lower case, without ``*``; weights
            from 0 (refused) to 1.
        wildcard: Weight of ``*``; None when it is not listed.
    """

    weights: Mapping[str, float]
    wildcard: float | None

    @classmethod
    def parse(cls, value: str) -> AcceptEncoding:
        """Read the value of ``Accept-Encoding``.

        Elements that cannot be read are left out, since a request is not worth refusing for
        them. Of a coding that is listed twice the first counts. ``x-gzip`` is gzip.

        Args:
            value: The value; of several lines, joined with commas.

        Returns:
            What it says.

        Examples:
            >>> AcceptEncoding.parse("br;q=0.5, gzip, *;q=0").weights
            {'br': 0.5, 'gzip': 1.0}
        """
        if len(value) <= _CACHED_LENGTH:
            return _parse_cached(value)
        return _parse(value)

    def weight(self, coding: str) -> float:
        """Tell how welcome a coding is.

        Args:
            coding: Its name in lower case; ``identity`` stands for no coding.

        Returns:
            0 when it must not be used, up to 1. Identity that is not mentioned is acceptable,
            with the smallest weight there is, unless ``*;q=0`` excludes it.
        """
        listed = self.weights.get(coding)
        if listed is not None:
            return listed
        if coding == "identity":
            return 0.0 if self.wildcard == 0 else 0.001
        return self.wildcard or 0.0


@final
@dataclass(frozen=True, slots=True)
class Compress:
    """Compress the body.

    Attributes:
        algorithm: The coding to produce.
    """

    algorithm: Algorithm


@final
@dataclass(frozen=True, slots=True)
class Decompress:
    """Decompress the body.

    Attributes:
        algorithm: The coding to undo.
    """

    algorithm: Algorithm


# None: leave the body alone.
Action: TypeAlias = Compress | Decompress | None


def accept_encoding_of(request: HeaderMap) -> AcceptEncoding | None:
    """Read ``Accept-Encoding`` of a request.

    Args:
        request: The request head.

    Returns:
        What it says; None when the field is missing, which is not the same as empty.
    """
    values = request.get_all("accept-encoding")
    return AcceptEncoding.parse(", ".join(values)) if values else None


def choose_algorithm(
    accept: AcceptEncoding | None,
    available: Collection[Algorithm],
    preference: Sequence[Algorithm] = (),
) -> Algorithm | None:
    """Choose the coding that a client likes best.

    Among equal weights the ``preference`` decides, then the client's order as in Pingora, then
    the order of ``Algorithm``.

    Args:
        accept: What the client takes. None, a request without the field, allows any coding but
            comes from clients that know none: they get none.
        available: The codings that may be produced.
        preference: The codings to favour among equally welcome ones, best first.

    Returns:
        The coding; None to send the body as it is.
    """
    if accept is None:
        return None
    listed = list(accept.weights)

    def rank(algorithm: Algorithm) -> tuple[float, int, int]:
        coding = algorithm.value
        favour = preference.index(algorithm) if algorithm in preference else len(preference)
        position = listed.index(coding) if coding in accept.weights else len(listed)
        return (-accept.weight(coding), favour, position)

    candidates = [algorithm for algorithm in Algorithm if algorithm in available]
    best = min(candidates, key=rank, default=None)
    if best is None:
        return None
    weight = accept.weight(best.value)
    if weight == 0 or weight < accept.weight("identity"):
        return None
    return best


def decide_action(
    response: ResponseHeader,
    accept: AcceptEncoding | None,
    available: Collection[Algorithm],
    preference: Sequence[Algorithm] = (),
) -> Action:
    """Decide what happens to the body of a final response that has one.

    Args:
        response: The head; not changed.
        accept: What the client takes; None for a request without ``Accept-Encoding``.
        available: The codings that may be produced.
        preference: The codings to favour among equally welcome ones, best first.

    Returns:
        What to do. ``Decompress`` says that the client did not ask for the coding it is about
        to get and can take none; whether it is undone is the operator's decision.

    Source: pingora-core/src/protocols/http/compression/mod.rs, except for the weights.
    """
    codings = response.get_all("content-encoding")
    if not codings:
        if not is_compressible(response):
            return None
        chosen = choose_algorithm(accept, available, preference)
        return None if chosen is None else Compress(chosen)
    # Several codings, or one that is not known: nothing that could be undone here.
    applied = Algorithm.from_coding(codings[0]) if len(codings) == 1 else None
    if applied is None:
        return None
    if accept is not None and (accept.weight(applied.value) > 0 or accept.weight("identity") == 0):
        return None
    return Decompress(applied)


def is_compressible(response: ResponseHeader) -> bool:
    """Tell whether compressing a body is likely to pay.

    Args:
        response: The head; without ``Content-Type`` the answer is no.

    Returns:
        Whether the body is of a kind that compresses, is not known to be tiny, and is not a
        stream of events.
    """
    content_type = (response.get("content-type") or "").lower()
    if (
        _COMPRESSIBLE.match(content_type) is None
        or "zip" in content_type
        or content_type.startswith(_NEVER)
    ):
        return False
    length = response.get("content-length")
    if length is None or not length.isdecimal():
        return True
    digits = length.lstrip("0")
    # int() refuses thousands of digits; three are plenty.
    return len(digits) > 2 or int(digits or "0") >= MIN_COMPRESS_LENGTH


def forbids_transform(header: HeaderMap) -> bool:
    """Tell whether ``Cache-Control: no-transform`` is there (RFC 9111 section 5.2).

    Args:
        header: The head of a request or a response.

    Returns:
        Whether intermediaries must leave the content as it is.
    """
    for value in header.get_all("cache-control"):
        lower = value.lower()
        if "no-transform" in lower and any(
            directive.strip() == "no-transform" for directive in lower.split(",")
        ):
            return True
    return False


def _parse(value: str) -> AcceptEncoding:
    weights: dict[str, float] = {}
    wildcard: float | None = None
    for element in value.lower().split(","):
        coding, *parameters = (part.strip(" \t") for part in element.split(";"))
        weight = _weight(parameters)
        if weight is None or _CODING.fullmatch(coding) is None:
            continue
        if coding == "*":
            wildcard = weight if wildcard is None else wildcard
        else:
            weights.setdefault("gzip" if coding == "x-gzip" else coding, weight)
    return AcceptEncoding(weights, wildcard)


_parse_cached = lru_cache(maxsize=512)(_parse)


def _weight(parameters: list[str]) -> float | None:
    """Read the weight among the parameters of an element.

    Returns:
        1 when there is none, None when it cannot be read.
    """
    for parameter in parameters:
        name, equals, number = parameter.partition("=")
        if name == "q" and equals:
            return float(number) if _QVALUE.fullmatch(number) else None
    return 1.0
