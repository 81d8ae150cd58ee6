"""``openai:MODEL``: a service that speaks the OpenAI embeddings protocol, as an encoder. Asks it nothing.

Such a service is a black box. No digest of its weights can be had, so the key holds what is known: the model's name,
the service's host and path, the length of the vectors that is asked for, and the user's own label (``--revision``).
Whether the service still computes the same under that name nobody can tell from here.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.memo import Memo
from nmtool.encoders.resolved import Asked, Resolved
from nmtool.encoders.spec import EncoderSpec
from nmtool.errors import UsageError
from nmtool.records import InputRef

FEATURE = "embedding"
MOST_DIMENSIONS = 65_536
_PORTS = {"http": 80, "https": 443}
_URL = "http(s)://HOST[:PORT]/PATH, as a service's documentation gives it for OpenAI's own client"


def plan(name: str, asked: Asked, memo: Memo) -> Resolved:
    """``openai:NAME`` at ``--base-url``.

    Raises:
        UsageError: no model, no URL, or flags for encoders that run here.
    """
    if not name:
        raise UsageError("MODEL openai:", "openai:MODEL, the model's name at the service")
    service = asked.service
    if not service.base_url:
        raise UsageError(
            f"MODEL openai:{name} without a service", "--base-url URL or $OPENAI_BASE_URL", f"a URL is {_URL}"
        )
    if asked.tower == "image":
        raise UsageError(f"MODEL openai:{name} with images", "texts or captions: such a service reads texts")
    if asked.kwargs or asked.overrides or asked.untrained or asked.max_length is not None:
        raise UsageError(
            f"--model-kwargs, --untrained, --max-length or preprocessing flags with MODEL openai:{name}",
            "none: the service prepares its texts itself",
        )
    if asked.feature not in ("", FEATURE):
        raise UsageError(f"--feature {asked.feature} with MODEL openai:{name}", f"{FEATURE}: all that a service gives")
    if service.dimensions is not None and not 1 <= service.dimensions <= MOST_DIMENSIONS:
        raise UsageError(f"--dimensions is {service.dimensions}", f"1 to {MOST_DIMENSIONS}")
    preparation: dict[str, object] = {"service": address(service.base_url)}
    if service.separator is not None:
        preparation["pair_separator"] = service.separator
    spec = EncoderSpec(
        family="openai",
        arch=name,
        kwargs={},
        weights=f"service:{service.revision or 'unlabelled'}",
        preprocessing=None,
        feature=FEATURE,
        dim=service.dimensions or 0,
        untrained=False,
        tower="text",
        normalize=asked.normalize,
        preparation=preparation,
    )
    content = sha256(canonical([spec.family, name, preparation["service"], service.revision]))
    return Resolved(
        spec=spec,
        input=InputRef(role="model", kind="service", key="", content=content),
        path=None,
        source="service",
        seed=0,
        service=service,
    )


def public_url(text: str) -> tuple[str, bool]:
    """A base URL without what may be secret in it.

    Args:
        text: as given; a trailing ``/embeddings`` is taken off.

    Returns:
        Scheme, host, port and path; and whether userinfo, a query or a fragment was dropped.

    Raises:
        UsageError: no URL of a service. What was given is not repeated: it may hold a password.
    """
    try:
        parts = urlsplit(text.strip())
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError:
        raise UsageError("the base URL (--base-url or $OPENAI_BASE_URL) is no URL", _URL) from None
    if parts.scheme not in _PORTS or not host or any(ord(c) <= 32 or ord(c) == 127 for c in host + parts.path):
        raise UsageError("the base URL (--base-url or $OPENAI_BASE_URL) is no URL of a service", _URL)
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[parts.scheme]:
        shown += f":{port}"
    path = parts.path.rstrip("/").removesuffix("/embeddings").rstrip("/")
    dropped = "@" in parts.netloc or "?" in text or "#" in text
    return f"{parts.scheme}://{shown}{path}", dropped


def is_open(url: str) -> bool:
    """Whether what is sent to a URL that ``public_url`` gave can be read on its way: no TLS, and another machine."""
    host = urlsplit(url).hostname or ""
    return url.startswith("http:") and host not in ("localhost", "::1") and not host.startswith("127.")


def address(url: str) -> str:
    """Host, port and path of a URL that ``public_url`` gave: what names the service in keys and messages."""
    return url.partition("://")[2]
