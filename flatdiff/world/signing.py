"""Messages between ranks: JSON, so that nothing that is received is run, and signed with a secret
of theirs, so that nobody else's is believed (HMAC, RFC 2104)."""

import hmac
import json
from typing import Any


def signed(secret: str, rank: int, content: Any) -> str:
    """A message of `rank`, with the proof that its sender knows the secret."""
    text = json.dumps([rank, content])
    return json.dumps([text, _proof(secret, text)])


def opened(secret: str, message: bytes) -> tuple[int, Any]:
    """The (rank, content) of a signed message; ValueError where no rank of ours wrote it."""
    try:
        text, proof = json.loads(message)
        rank, content = json.loads(text)
        known = hmac.compare_digest(proof.encode(), _proof(secret, text).encode())
    except (ValueError, TypeError, AttributeError, RecursionError):
        known = False
    if not known:
        raise ValueError(
            "somebody else than our ranks reached the ports of this run and wrote there: start "
            "again, and if it happens again set MASTER_ADDR to an address in a network of yours"
        )
    return rank, content


def _proof(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()
