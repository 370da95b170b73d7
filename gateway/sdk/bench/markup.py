"""Elements of a page, as values: the standard library writes them, so nothing has to be escaped by hand."""

from xml.etree.ElementTree import Element, tostring

Child = Element | str | None


def element(tag: str, attributes: dict[str, str] | None = None, *children: Child) -> Element:
    """An element with its attributes, texts and elements; children that are None are left out."""
    made = Element(tag, attributes or {})
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            if last is None:
                made.text = (made.text or "") + child
            else:
                last.tail = (last.tail or "") + child
        elif child is not None:
            made.append(child)
            last = child
    return made


def table(columns: list[str], rows: list[list[Child]], *, caption: str) -> Element:
    """A table whose first column names each row."""
    head = element("tr", {}, *(element("th", {"scope": "col"}, name) for name in columns))
    body = [
        element("tr", {}, element("th", {"scope": "row"}, row[0]), *(element("td", {}, cell) for cell in row[1:]))
        for row in rows
    ]
    made = element(
        "table", {}, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, *body)
    )
    return element("div", {"class": "wide"}, made)


def page(title: str, style: str, *body: Child) -> str:
    """A page that asks nobody for anything: no script, no picture, no style from elsewhere."""
    meta = [
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element(
            "meta",
            {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"},
        ),
    ]
    head = element("head", {}, *meta, element("title", {}, title), element("style", {}, style))
    html = element("html", {"lang": "en"}, head, element("body", {}, element("main", {}, *body)))
    return "<!doctype html>\n" + tostring(html, encoding="unicode", method="html") + "\n"
