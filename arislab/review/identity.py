"""Who is at the door of the review server: Voila loads this class by its name.

A page opens only with the secret in its address, whatever cookies the browser has: the address says who decides. What
the page then asks for (scripts, its kernel) goes by the cookie that it got. It does not know what a page shows.
"""

from pathlib import Path
from typing import Any

from jupyter_server.auth.identity import IdentityProvider, User
from traitlets import Unicode

from arislab.review.seats import read


class Seated(IdentityProvider):
    """Lets in who has a seat, and to the lead's page only the lead."""

    folder = Unicode(config=True, help="Folder with seats.json.")

    @property
    def auth_enabled(self) -> bool:
        """Never off."""
        return True

    async def get_user_token(self, handler: Any) -> User | None:
        """Return whose secret stands in the address."""
        known, given = read(Path(self.folder)), self.get_token(handler)
        name = known.name_of(given) if known and given else None
        if known is None or name is None or (_page(handler) == "lead.ipynb" and name != known.lead):
            return None
        return User(username=name)

    def get_user_cookie(self, handler: Any) -> Any:
        """Return who the cookie says it is, but for a page."""
        return None if _page(handler) else super().get_user_cookie(handler)

    def process_login_form(self, handler: Any) -> None:
        """Let nobody in by a password: there is none."""


def _page(handler: Any) -> str:
    """Name of the notebook that is asked for; the list of them is a page too."""
    path = str(handler.request.path)
    is_page = path.startswith(("/voila/render/", "/voila/tree")) or path == "/"
    return path.rpartition("/")[2] or "/" if is_page else ""
