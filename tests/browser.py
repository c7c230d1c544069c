"""A headless browser, where one is at hand: what of a page does not fit its width."""

import html
import json
import re
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Of every element: how far it, or what it holds, goes beyond the page.
MEASURE = """
<pre id="found"></pre><script>
const width = document.documentElement.clientWidth;
const wide = [...document.body.querySelectorAll("*")].filter(
  x => x.getBoundingClientRect().right > width + 1 || x.scrollWidth > x.clientWidth + 1
    && getComputedStyle(x).display !== "inline");
// A word on several lines has several boxes.
const broken = [];
for (const cell of document.querySelectorAll("th, td")) {
  const text = cell.firstChild;
  if (!text || text.nodeType !== Node.TEXT_NODE) continue;
  for (const match of text.data.matchAll(/[^ ]+/g)) {
    const range = document.createRange();
    range.setStart(text, match.index);
    range.setEnd(text, match.index + match[0].length);
    if (range.getClientRects().length > 1 && match[0].length <= 12) broken.push(match[0]);
  }
}
document.getElementById("found").textContent = JSON.stringify({
  width: width,
  scroll: document.documentElement.scrollWidth,
  elements: document.body.querySelectorAll("*").length,
  broken: broken,
  wide: wide.map(x => x.tagName + ": " + x.textContent.slice(0, 40)),
});
</script>
"""


def find_browser():
    """Its path, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def measure(page, folder, width, printed=False):
    """Lays a page out.

    Args:
      page: the HTML.
      folder: to work in.
      width: of the window or of the paper's text, in pixels.
      printed: whether the rules for paper hold.

    Returns:
      ``width`` of the page, ``scroll``, the width of what is on it, ``elements``, ``wide``, those
      that do not fit, and ``broken``, words of usual length that are on two lines of a table.
    """
    # The page's own policy lets no script run.
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)
    if printed:
        page = page.replace("@media print", "@media all")
    path = folder / "measured.html"
    path.write_text(page.replace("</body>", MEASURE + "</body>"))
    command = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars"]
    command += [f"--window-size={width},1000", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(found[1]))
