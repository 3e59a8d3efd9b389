"""One way to turn a value into its identity."""

import hashlib
import json
from typing import Any

LENGTH = 16


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `value` written as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
