"""HTML pages: one file each, no network, and every name from a file escaped.

- `markup`: `tag` builds elements and escapes every text; `name` shows the name of a class or file.
- `page`: `page` frames a body with its style, its script and a content security policy.
- `tables`: `table` with caption and scopes, which a small script sorts.
- `charts`: lines, columns and bars as inline SVG.
- `pictures`: frames as WebP inside the page.
"""
