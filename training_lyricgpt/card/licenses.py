"""Describes the license of the songs on a card. It names only a license that the user stated.

Notes:
- The Hub accepts only the identifiers on its list. Any other license becomes `other`, with a name.
- If the user stated no license, the card's metadata has none, and its text says so.
"""

import re

from .markdown import code_span, escape

# What the Hub accepts as `license`: https://huggingface.co/docs/hub/repositories-licenses, and the other names that its
# error message for a wrong one lists.
HUB_LICENCES = frozenset((
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "isc", "lppl-1.3c", "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql",
    "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr", "unknown",
))  # fmt: skip
LONGEST_NAME = 60


def stated_license(text: str | None) -> str | None:
    """Returns what the user stated, in one line, with the Hub's spelling of its identifiers; None if nothing was stated."""
    line = " ".join((text or "").split())
    return (line.lower() if line.lower() in HUB_LICENCES else line) or None


def license_metadata(text: str | None) -> dict[str, str]:
    """Returns the license fields of a card's metadata; none if nothing was stated."""
    stated = stated_license(text)
    if stated is None or stated in HUB_LICENCES:
        return {"license": stated} if stated else {}
    name = re.sub(r"[^a-z0-9.]+", "-", stated.lower()).strip("-.")[:LONGEST_NAME].strip("-.")
    fields = {"license": "other", "license_name": name or "stated-in-the-card"}
    if address := re.search(r"https?://[^\s<>\"]+", stated):
        fields["license_link"] = address[0]
    return fields


def shown_license(text: str | None) -> str | None:
    """Returns what was stated, for the text of the card."""
    stated = stated_license(text)
    return code_span(stated) if stated in HUB_LICENCES else stated and escape(stated)
