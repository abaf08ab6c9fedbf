"""Why a site gives no answer: one of a few fixed words is all that the server learns.

What an error says in full, with paths, labels and texts, stands in the site's log alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from rolora.core.errors import BadInput

WHY: Mapping[str, str] = {
    "refused": "the site's policy does not allow what it was asked; its log says what",
    "unfit": "the site's settings, data or model do not fit the run; its log says how",
    "other_data": "the site's data are not those with which it began the run",
    "protocol": "the site and the server run versions of rolora that do not fit",
    "not_joined": "the site has not joined the run yet",
    "no_request": "what the site was sent is no request",
    "site_error": "an error at the site; its log says which",
    "nan": "its change is not finite, and it does not send it",
    "train_loss": "its training loss is not finite, and it does not send its update",
    "out_of_reach": "a number of its change is beyond secure_sum.reach, and it does not send it",
    "site_away": "the site's worker does not answer",
}
"""What a site may tell, and what it means."""


class Declined(Exception):  # noqa: N818
    """A request that a site does not answer.

    Args:
        reason: one of :data:`WHY`.
        detail: for the site's own log.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def reason_of(error: Exception) -> str:
    """What of an error at a site is told: one of :data:`WHY`."""
    if isinstance(error, Declined):
        return error.reason
    return "unfit" if isinstance(error, BadInput) else "site_error"
