"""Rows of PDF files: one a page, under the page's name, with a digest that tells page and content.

`doc.pdf#page=3` has the digest `HEX:3/12`: the SHA-256 of the file, and the third of twelve pages.
So the rows themselves say how many there are to be, and a renamed file is known page by page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ume_core.pdf import page_name, split_page


@dataclass(frozen=True)
class Pages:
    """What a PDF file holds.

    Attributes:
        content: SHA-256 of its bytes, hexadecimal.
        count: its pages.
    """

    content: str
    count: int

    @classmethod
    def of(cls, digest: str) -> Pages:
        """Those of the file whose page has this digest."""
        content, _, place = digest.partition(":")
        return cls(content, int(place.partition("/")[2]))

    def rows(self, file: str) -> dict[str, str]:
        """The rows of the file of this name: name -> digest."""
        return {page_name(file, page): self.digest(page) for page in range(1, self.count + 1)}

    def digest(self, page: int) -> str:
        """The digest of one page's row."""
        return f"{self.content}:{page}/{self.count}"


def file_of(row: str) -> str:
    """The file that a row is of."""
    return split_page(row)[0]


def content_of(digest: str) -> str:
    """The SHA-256 of the file whose row has this digest."""
    return digest.partition(":")[0]


def by_file(rows: Iterable[str]) -> Mapping[str, list[str]]:
    """PDF file -> its rows among these."""
    found: dict[str, list[str]] = {}
    for row in rows:
        file, page = split_page(row)
        if page is not None:
            found.setdefault(file, []).append(row)
    return found
