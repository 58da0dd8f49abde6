"""TLS for an upstream: good certificates and bad ones, made when they are needed."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

__all__ = ["TLS", "server_context"]

TLS = Literal["good", "expired", "wrong_host", "unknown_ca", "hang", "eof"]
"""How an upstream speaks TLS. The last two never get as far as showing a certificate."""


def server_context(tls: TLS, authority: Path) -> ssl.SSLContext:
    """Return what a server shows; write the authority that a client has to trust to a file."""
    try:
        import trustme  # noqa: PLC0415 - for tests with TLS alone
    except ModuleNotFoundError as error:
        raise ImportError(
            "an upstream with TLS needs trustme, which is not installed: pip install trustme",
            name="trustme",
        ) from error
    trusted = trustme.CA()
    trusted.cert_pem.write_to_path(str(authority))
    maker = trustme.CA() if tls == "unknown_ca" else trusted
    yesterday = datetime.now(UTC) - timedelta(days=1)
    names = ("elsewhere.example",) if tls == "wrong_host" else ("127.0.0.1", "localhost")
    shown = maker.issue_cert(*names, not_after=yesterday if tls == "expired" else None)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.configure_cert(context)
    return context
