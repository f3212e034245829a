"""Rows of PDF files: one a page, under the page's name, with a digest that tells page and content.

`doc.pdf#page=3` has the digest `HEX:3/12`: the SHA-256 of the file, and the third of twelve pages.
So the rows themselves say how many there are to be, and a renamed file is known page by page.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ume_core.errors import UmeError
from ume_core.limits import Limits
from ume_core.pdf import count_pages, draw_page, is_pdf, page_name, split_page
from ume_r1.index.reading import Content, Unreadable


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


def rows_of(file: str, starting: Callable[[str], list[str]]) -> list[str]:
    """The rows of a PDF's pages, in the order of the pages; none of a file of another kind.

    Args:
        file: its name.
        starting: gives the names of rows that begin so, such as `Shelf.starting`.
    """
    if not is_pdf(file):
        return []
    rows = starting(page_name(file, 1).removesuffix("1"))
    found = {row: page for row in rows if (page := split_page(row)[1]) and file_of(row) == file}
    return sorted(found, key=found.__getitem__)


def pages_in(content: Content) -> Pages:
    """The pages of a PDF that was read.

    Raises:
        Unreadable: it is encrypted or damaged, or has too many pages.
    """
    try:
        return Pages(content.digest, count_pages(content.data, "it", Limits()))
    except UmeError as error:
        raise Unreadable(str(error), replaced=True) from error


def rows_in(file: str, content: Content, wanted: Collection[str]) -> dict[str, str]:
    """The wanted rows of a file that was read, with their digests.

    Args:
        file: its name.
        content: what was read.
        wanted: names of its rows; the name of a PDF stands for all its pages.

    Raises:
        Unreadable: see `pages_in`.
    """
    if not is_pdf(file):
        return dict.fromkeys(wanted, content.digest)
    pages = pages_in(content)
    if file in wanted:
        return pages.rows(file)
    return {row: pages.digest(split_page(row)[1] or 1) for row in wanted}


def data_of(row: str, content: Content) -> bytes:
    """What is embedded for a row: the bytes of its file, or the page, drawn (see `draw_page`).

    Raises:
        UmeError: the page cannot be drawn.
    """
    page = split_page(row)[1]
    return content.data if page is None else draw_page(content.data, page, "it", Limits())
