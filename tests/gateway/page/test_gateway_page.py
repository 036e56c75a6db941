"""What the operator sees and does on the page, in Chromium."""

import base64
import re
from collections.abc import Callable
from typing import Any

import pytest

from faulty_server import Server, says
from gateway_clients import CLEAN, MARKED, WITHIN, png, send
from gateway_runner import Running, running_gateway
from maskrestore.gateway.access import new_key
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.decisions import KeptDecision
from maskrestore.gateway.ids import new_id
from maskrestore.gateway.records import Decision
from maskrestore.runtime.digests import digest_of_key
from maskrestore.types import Purification

Start = Callable[..., Running]
Visit = Callable[..., Any]
pytestmark = pytest.mark.browser
expect = pytest.importorskip("playwright.sync_api").expect

HOSTILE = "<img src=x onerror=hacked=1>\u202e</li>"
NAMES = [*(f"colour {label}" for label in range(6)), HOSTILE, "white"]
CONTRAST = """
() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    throw new Error("nothing is behind it");
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
    if (!own || !node.checkVisibility({ visibilityProperty: true })) continue;
    const pair = [light(parts(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), node.textContent.trim().slice(0, 40)]);
  }
  return found;
}
"""


def drop(page: Any, content: bytes, name: str) -> None:
    """Drop a file on the page as a mouse would."""
    page.evaluate(
        """([data, name]) => {
          const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
          for (const kind of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(content).decode(), name],
    )


def test_decisions_arrive_live_with_their_pictures(gateway: Start, visit: Visit) -> None:
    running = gateway(WITHIN | {"classes": ["black", *NAMES[1:6], "the target", "white"], "doubt_limit": 1.0})
    page = visit(running)
    page.get_by_text("No picture has come yet").wait_for()
    assert "may have a backdoor" in page.locator(".lead").inner_text()
    command = page.locator("#command").inner_text()
    assert command == f"curl --data-binary @picture.png '{running.address}/v1/purify'"
    assert page.locator("#address").inner_text() == f"{running.address}/v2/models/colours"
    page.locator("#live", has_text="live").wait_for()
    assert not page.locator("#figures").is_visible()

    send(running, MARKED[0], CLEAN[0])
    row = page.locator("#rows li", has_text="label changed")
    row.wait_for()
    assert page.locator("#rows li").count() == 2
    assert re.search(r"the target.*becomes.*\w", row.locator("h3").inner_text(), re.DOTALL)
    assert re.search(r"colours · .*% restored · suspicion [01]\.\d\d · \d+ queries · ", row.inner_text())
    row.locator("img").nth(2).wait_for()
    widths = row.locator("img").evaluate_all(
        "(all) => Promise.all(all.map((one) => one.decode().then(() => one.naturalWidth)))"
    )
    assert widths == [16, 16, 16]
    assert not page.locator("#empty").is_visible()
    assert page.locator("#rows li", has_text="label unchanged").locator("img").count() == 2, "nothing was removed"

    row.get_by_role("button", name="All stages").click()
    titles = row.locator(".stages figcaption")
    titles.first.wait_for()
    assert titles.all_inner_texts()[0] == "Input"
    assert titles.all_inner_texts()[-3:] == ["Hidden", "Purified", "Removed"]
    page.locator(".chart", has_text="Pictures").get_by_text("1 changed, 0 errors").wait_for()
    figures = page.locator(".chart .figure").all_inner_texts()
    bucket = running.client.get("/v1/statistics").json()["buckets"][0]
    assert (figures[0], figures[3]) == ("2", f"{bucket['queries']} queries")
    boxes = [page.locator(name).bounding_box() for name in ("#figures", "#decisions")]
    assert boxes[1]["x"] + boxes[1]["width"] < boxes[0]["x"], "side by side"
    assert row.bounding_box()["y"] < 700
    page.get_by_text("Show the cost as money").click()
    page.get_by_label("Price of 1,000 queries").fill("500")
    page.locator(".chart .figure", has_text=f"{bucket['queries'] / 2:.2f}").wait_for()


def test_filters_and_errors(backdoor: Server, gateway: Start, visit: Visit) -> None:
    running = gateway({"doubt_limit": 1.0})
    send(running, MARKED[0], CLEAN[0])
    backdoor.faults = [says(500, b'{"error": "out <b>of</b> memory"}')]
    send(running, CLEAN[1])
    backdoor.faults = []
    page = visit(running)
    rows = page.locator("#rows li")
    rows.nth(2).wait_for()
    page.locator(".filter").get_by_text("in doubt").click()
    page.get_by_text("No decision is like that").wait_for()
    page.get_by_text("✗ errors").click()
    expect(page.locator("#rows li")).to_have_count(1)
    assert "no answer" in rows.inner_text()
    assert "out <b>of</b> memory" in rows.inner_text()
    page.locator(".filter").get_by_text("label changed").click()
    expect(page.locator("#rows li .verdict")).to_have_text("↻ label changed")
    page.locator("#live", has_text="live").wait_for()
    send(running, CLEAN[0], MARKED[1])
    expect(page.locator("#rows li")).to_have_count(2)
    assert all("label changed" in text for text in rows.all_inner_texts())


@pytest.mark.parametrize(
    ("on_doubt", "words"),
    [
        ("answer", "? in doubt"),
        ("original", "? in doubt, original label answered"),
        ("abstain", "? in doubt, not answered"),
    ],
)
def test_what_is_in_doubt_is_marked_and_can_be_shown_alone(
    gateway: Start, visit: Visit, monkeypatch: pytest.MonkeyPatch, on_doubt: str, words: str
) -> None:
    monkeypatch.setattr(Purification, "doubtful", lambda self, limit: self.labels != self.original_labels)
    running = gateway(WITHIN | {"on_doubt": on_doubt, "class_count": None, "scores": "labels"})
    send(running, MARKED[0], CLEAN[0])
    page = visit(running)
    rows = page.locator("#rows li")
    expect(rows).to_have_count(2)
    page.locator(".chart", has_text="Pictures").get_by_text("1 changed, 1 in doubt, 0 errors").wait_for()
    page.locator("#live", has_text="live").wait_for()
    page.locator(".filter").get_by_text("in doubt").click()
    expect(rows).to_have_count(1)
    expect(rows.locator(".verdict")).to_have_text(["↻ label changed", words])
    made = running.client.get("/v1/decisions?doubtful=true").json()["decisions"][0]
    assert re.search(rf"class 6.*becomes.*class {made['purified_label']}", rows.inner_text(), re.DOTALL)
    assert re.search(r"suspicion [01]\.\d\d", rows.inner_text())
    drop(page, png(MARKED[1]), "sign.png")
    expect(page.get_by_role("article", name="Result").locator(".verdict")).to_have_text(["↻ label changed", words])
    expect(rows).to_have_count(2)


def test_models_can_be_told_apart(visit: Visit) -> None:
    config = GatewayConfig.model_validate({"models": {"first": WITHIN, "second": WITHIN}})
    with running_gateway(config) as running:
        page = visit(running)
        page.get_by_text("No picture has come yet").wait_for()
        assert page.locator("#command").inner_text().endswith("/v1/purify?model=first'")
        page.locator("#try-model-name").select_option("second")
        drop(page, png(CLEAN[0]), "a.png")
        row = page.locator("#rows li", has_text="second")
        row.wait_for()
        page.locator("#only-model-name").select_option("first")
        page.get_by_text("No decision is like that").wait_for()
        page.locator("#only-model-name").select_option("second")
        row.wait_for()
        page.goto("about:blank")


def test_a_dropped_picture_shows_every_stage(gateway: Start, visit: Visit) -> None:
    page = visit(gateway(WITHIN))
    page.locator("#live", has_text="live").wait_for()
    drop(page, png(MARKED[0]), "sign.png")
    result = page.get_by_role("article", name="Result")
    result.wait_for()
    assert re.search(r"sign\.png.*class 6.*class \d.*label changed", result.inner_text(), re.DOTALL)
    assert re.search(r"% restored · suspicion [01]\.\d\d · \d+ queries · \d", result.inner_text())
    titles = result.locator("figcaption").all_inner_texts()
    assert titles[0] == "Input"
    assert any(title.startswith("Score map") for title in titles)
    assert titles[-3:] == ["Hidden", "Purified", "Removed"]
    sizes = result.locator("img").evaluate_all("(all) => all.map((one) => one.naturalWidth)")
    assert len(sizes) == len(titles)
    assert all(sizes)
    drop(page, b"no picture", "notes.txt")
    page.locator("#try-state.error", has_text="notes.txt: ").wait_for()
    assert result.count() == 0


def test_hostile_names_stay_text(gateway: Start, visit: Visit) -> None:
    running = gateway(WITHIN | {"classes": NAMES})
    send(running, MARKED[0])
    page = visit(running)
    page.locator("#rows li").wait_for()
    drop(page, png(MARKED[0]), f"{HOSTILE}.png".replace("/", "-"))
    page.get_by_role("article", name="Result").wait_for()
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert shown in page.locator("#rows li").last.inner_text()
    assert shown.replace("/", "-") in page.locator("#try-result").inner_text()
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.hacked") is None
    refused = page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>'; } catch (error) { return error.name; } })()"
    )
    assert refused == "TypeError", "the page can make no markup of texts"
    headers = running.client.get("/").headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    for name in ("page/app.js", "page/page.css", "page/report.css"):
        found = running.client.get(name)
        assert (found.status_code, found.headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert running.client.get("/page/../gateway.py").status_code == 404


def test_the_page_asks_for_the_key_and_says_if_it_is_wrong(gateway: Start, visit: Visit) -> None:
    shop, boss = new_key(), new_key()
    running = gateway(
        WITHIN, tenants={"shop": {"key_hash": digest_of_key(shop)}}, operator={"key_hash": digest_of_key(boss)}
    )  # fmt: skip
    send(running, MARKED[0], key=shop)
    kinds: set[str] = set()
    page = visit(running, host="gateway.test")
    page.on("response", lambda answer: kinds.add(answer.headers.get("www-authenticate", "")))
    field = page.get_by_label("Key", exact=True)
    field.wait_for()
    assert not page.get_by_text("Decisions", exact=True).is_visible()
    for wrong, words in ((shop, "not the operator's key"), ("mr_ключ", "ASCII")):
        field.fill(wrong)
        field.press("Enter")
        page.get_by_role("alert").get_by_text(words).wait_for()
    field.fill(boss)
    page.get_by_role("button", name="Show the decisions").click()
    page.locator("#rows li").wait_for()
    assert "shop" in page.locator("#rows li").inner_text()
    page.locator("#rows li img").nth(2).wait_for()
    drop(page, png(MARKED[0]), "a.png")
    page.get_by_role("article", name="Result").wait_for()
    assert boss not in page.content()
    page.reload()
    page.locator("#rows li").first.wait_for()
    page.get_by_role("button", name="Forget the key").click()
    field.wait_for()
    assert not page.locator("#rows li").first.is_visible()
    assert kinds == {"", 'Bearer realm="maskrestore"'}, "the browser itself does not ask"


def test_everything_can_be_done_with_the_keyboard(gateway: Start, visit: Visit) -> None:
    running = gateway(WITHIN)
    send(running, CLEAN[0], MARKED[0])
    page = visit(running)
    page.locator("#rows li").first.wait_for()
    page.locator(".chart").first.wait_for()
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            """() => {
              const one = document.activeElement;
              const mark = { radio: one.closest("label"), file: document.querySelector(".button") }[one.type] ?? one;
              return [one.id || one.name || one.textContent.trim(), getComputedStyle(mark).outlineStyle];
            }"""
        )
        if seen[0] == "":
            break
        assert seen[1] != "none", f"{seen[0]} shows where the focus is"
        reached.append(seen[0])
        if seen[0] == "kind":
            page.keyboard.press("ArrowRight")
            expect(page.locator("#rows li")).to_have_count(1)
        if seen[0] == "pause":
            page.keyboard.press("Space")
            page.get_by_role("button", name="Go on", pressed=True).wait_for()
        if seen[0] == "All stages":
            page.keyboard.press("Enter")
            page.locator(".more figure").first.wait_for()
            break
    assert reached[:5] == ["Skip to the decisions", "minutes", "Show the cost as money", "file", "pause"]
    assert reached[5:] == ["kind", "All stages"]
    send(running, MARKED[1])
    page.locator("#live", has_text="paused, 1 new").wait_for()
    assert page.locator("#rows li").count() == 1
    page.get_by_role("button", name="Go on").press("Enter")
    expect(page.locator("#rows li")).to_have_count(2)


def test_a_phone_and_the_contrast(backdoor: Server, gateway: Start, visit: Visit) -> None:
    classes = [f"{name} {'x' * 80} {'a long name ' * 9}" for name in NAMES]
    running = gateway({"classes": classes, "on_doubt": "abstain", "doubt_limit": 0.0})
    page = visit(running, width=390, reduced_motion="reduce")
    page.locator("#live", has_text="live").wait_for()
    backdoor.faults = [says(500, b'{"error": "' + b"e" * 200 + b'"}')]
    send(running, CLEAN[1])
    backdoor.faults = []
    send(running, CLEAN[0], MARKED[0])
    drop(page, png(MARKED[0]), "n" * 200 + ".png")
    page.get_by_role("article", name="Result").wait_for()
    page.locator("#rows li").nth(3).wait_for()
    expect(page.get_by_text("in doubt, not answered")).to_have_count(4)
    page.locator("#rows li").last.get_by_role("button", name="All stages").click()
    page.locator(".more dl").wait_for()
    page.locator(".chart").first.wait_for()
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > 390)"
        ".filter((one) => !one.closest('.unseen')).map((one) => one.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.getAnimations().length") == 0
    for scheme, backdrop in (("light", "rgb(246, 247, 249)"), ("dark", "rgb(18, 21, 26)")):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == backdrop
        contrasts = page.evaluate(CONTRAST)
        assert len(contrasts) > 60
        assert [one for one in contrasts if one[0] < 4.5] == []


def test_everything_has_a_name(gateway: Start, visit: Visit) -> None:
    running = gateway(WITHIN)
    page = visit(running)
    page.locator("#live", has_text="live").wait_for()
    send(running, MARKED[0])
    page.locator("#rows img").nth(2).wait_for()
    page.locator(".chart svg").first.wait_for()
    tree = page.locator("body").aria_snapshot()
    for words in (
        'heading "maskrestore gateway" [level=1]', "region \"Decisions\"", 'region "Try a picture"', 'group "Show"',
        'radio "all" [checked]', 'combobox "in the last', 'button "Pause"', 'img "The picture as it came"',
        "live", 'img "Pictures over time: 1, ', 'list "Models"',
    ):  # fmt: skip
        assert words in tree, tree
    assert page.evaluate("document.documentElement.lang") == "en"


def test_the_list_is_bounded_and_older_ones_can_be_had(gateway: Start, visit: Visit) -> None:
    running = gateway(WITHIN, decisions={"recent": 3})
    send(running, CLEAN[0])
    (first,) = running.client.get("/v1/decisions").json()["decisions"]

    def more(count: int) -> list[Decision]:
        return [Decision.model_validate(first | {"id": new_id()}) for _ in range(count)]

    running.gateway.store.add([KeptDecision(decision=one) for one in more(120)], {})
    send(running, CLEAN[0])
    page = visit(running)
    rows = page.locator("#rows li")
    expect(rows).to_have_count(50)
    expect(rows.nth(0).locator("img")).to_have_count(2)
    expect(rows.nth(4).get_by_text("not kept")).to_have_count(2)
    rows.nth(4).get_by_role("button").click()
    page.get_by_text("are not kept, only its maps").wait_for()
    page.get_by_role("button", name="Show older decisions").click()
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Show older decisions").click()
    expect(rows).to_have_count(122)
    assert not page.locator("#older").is_visible()
    page.locator("#live", has_text="paused").wait_for()

    events = "".join(f"event: decision\ndata: {one.model_dump_json()}\n\n" for one in more(230))
    page.route("**/v1/decisions/stream*", lambda route: route.fulfill(body=events, content_type="text/event-stream"))
    page.reload()
    expect(rows).to_have_count(200)


def test_the_page_says_when_the_gateway_is_gone_and_comes_back(
    gateway: Start, visit: Visit
) -> None:  # fmt: skip
    running = gateway(WITHIN)
    page = visit(running)
    page.locator("#live", has_text="live").wait_for()
    page.route("**/v1/**", lambda route: route.abort())
    page.evaluate("document.querySelector('input[name=kind]').dispatchEvent(new Event('change'))")
    page.locator("#live", has_text="the gateway does not answer, trying again").wait_for()
    send(running, MARKED[0])
    page.unroute_all()
    page.locator("#rows li").wait_for()
    page.locator("#live", has_text="live").wait_for()
