"""The files of /ops: htmx as it was published, and nothing that the policy of the pages forbids."""

import re
from hashlib import sha256
from pathlib import Path

import plinth.ops

OPS = Path(plinth.ops.__file__).parent


def test_htmx_is_the_file_that_its_licence_names() -> None:
    said = (OPS / "static" / "htmx.LICENSE.txt").read_text()
    script = (OPS / "static" / "htmx.min.js").read_bytes()
    assert sha256(script).hexdigest() in said
    (version,) = re.findall(rb'version:"([^"]+)"', script)
    assert f"htmx {version.decode()}, the file dist/htmx.min.js" in said
    assert "Zero-Clause BSD" in said


FORBIDDEN = re.compile(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=|hx-on|\bjs:|hx-trigger=\"[^\"]*\[")


def test_templates_have_no_inline_script_style_or_evaluated_attribute() -> None:
    for template in (OPS / "templates").glob("*.html"):
        found = FORBIDDEN.findall(template.read_text())
        assert found == [], template.name


def test_fields_and_images_have_names() -> None:
    """Each field has a label or is in one; axe checks the pages themselves, in `make browser-test`."""
    for template in (OPS / "templates").glob("*.html"):
        text = template.read_text()
        fields = re.findall(r"<input(?![^>]*type=\"(?:hidden|checkbox)\")[^>]*>", text)
        for field in fields:
            (name,) = re.findall(r' id="([^"]+)"', field)
            assert f'<label for="{name}"' in text, (template.name, field)
        assert all("aria-label" in svg for svg in re.findall(r"<svg[^>]*>", text))
