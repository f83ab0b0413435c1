"""The documentation as HTML."""

from __future__ import annotations

from controlplane.console.pages.markdown import render_page


def render(text: str, page: str = "limits") -> str:
    return render_page(text, page=page, root="/admin/docs/").html


def test_raw_html_and_script_addresses_are_shown_as_text() -> None:
    html = render("# T\n\n<script>alert(1)</script>\n\n[x](javascript:alert(1)) <b onclick=x>b</b>")
    assert "<script" not in html
    assert "<b " not in html
    assert "href" not in html
    assert "&lt;script&gt;" in html


def test_links_between_pages_lead_to_the_pages_of_the_admin() -> None:
    assert 'href="/admin/docs/identity/#proxies"' in render("[a](identity.md#proxies)")
    assert 'href="/admin/docs/adr/0001-x/"' in render("[a](adr/0001-x.md)")
    assert 'href="/admin/docs/limits/"' in render("[a](../limits.md)", page="adr/0001-x")
    assert 'href="#here"' in render("[a](#here)")
    assert 'href="https://example.org/" rel="noopener noreferrer"' in render("[a](https://example.org/)")


def test_pictures_beside_the_pages_are_shown_and_those_of_other_hosts_are_not_fetched() -> None:
    assert 'src="/admin/docs/images/a.png"' in render("![a](images/a.png)")
    html = render("![a picture](https://example.org/a.png) ![b](//example.org/b.png)")
    assert "<img" not in html
    assert "a picture" in html


def test_headings_can_be_linked_to_and_repeated_ones_stay_distinct() -> None:
    html = render("# The `x` page\n\n## zantara.E001\n\n## Burst & more\n\n## Same\n\n## Same")
    for name in ("zantarae001", "burst--more", "same", "same-1"):
        assert f'id="{name}"' in html
    assert render_page("# The `x` page\n", page="p", root="/").title == "The x page"
    assert render_page("no heading", page="p", root="/").title == "p"


def test_tables_are_rendered() -> None:
    assert "<td>1</td>" in render("| a |\n|---|\n| 1 |\n")


def test_named_places_can_be_linked_to_and_comments_are_not_shown() -> None:
    html = render('<!-- checks -->\n\n| a |\n|---|\n| <a id="zantarae001"></a>`zantara.E001` |\n')
    assert '<span id="zantarae001"></span><code>zantara.E001</code>' in html
    assert "checks" not in html
    assert "<a " not in html
    for text in ('<a id="x" onclick="y"></a>', '<a id="x&quot;></a>', "`<!-- kept -->`"):
        assert "&lt;" in render(text)
        assert "<span" not in render(text)
