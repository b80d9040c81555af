"""What a person sees in Chromium: first paint, changes without reloading, sign-in, a lost server, hostile names."""

from __future__ import annotations

from typing import Any

import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, Role
from tests.browser.conftest import Site, keep, sign_in
from tests.service.serving import TOKENS

HOSTILE = '<script>document.title="owned"</script>"\'><img src=x onerror=\'document.title="owned"\'>'


def submit(site: Site, name: str) -> str:
    return site.cluster.submit(JobSpec(run="true", name=name), Caller("ada", Role.USER))[0].id


def test_the_page_is_whole_without_a_script_and_live_with_one_and_both_are_the_same(
    chromium: Any, page: Any, site: Site
) -> None:
    job = submit(site, "resnet")
    site.cluster.run(job, gpus=3, progress=0.25, eta_s=site.cluster.now_s + 7200)
    submit(site, "bert")
    with_none = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB", java_script_enabled=False)
    plain = with_none.new_page()
    sign_in(plain, site)
    sign_in(page, site)
    page.wait_for_selector(".on")

    def seen(of: Any, what: str) -> list[str]:
        return [" ".join(text.split()) for text in of.locator(what).all_inner_texts()]

    for what in (
        ".node",
        ".scroll tr",
        ".gauge",
        ".keys > div",
        ".notices li",
        ".policy",
        "main .gauge h2",
    ):
        assert seen(page, what) == seen(plain, what)
        assert seen(plain, what), what
    keep(page, "light")
    with_none.close()


def test_what_happens_is_shown_without_loading_the_page_again(page: Any, site: Site) -> None:
    job = submit(site, "resnet")
    sign_in(page, site)
    page.wait_for_selector(f"section[aria-labelledby=waiting] a:text-is('{job}')")
    page.evaluate("window.mark = 1")
    site.cluster.run(job, gpus=2)
    page.wait_for_selector(f"section[aria-labelledby=running] a:text-is('{job}')")
    assert page.locator(".node .g-job").count() == 2
    site.cluster.change(job, power_w=333.0)
    page.wait_for_selector("td:text-is('333 Wᵉ')")
    assert page.evaluate("window.mark") == 1
    page.click(".node .g-job a >> nth=0")
    page.wait_for_selector("h1.job")
    assert page.url == f"{site.url}/jobs/{job}"


def test_a_lost_server_is_said_and_a_new_one_is_heard_with_all_that_happened_meanwhile(page: Any, site: Site) -> None:
    job = submit(site, "resnet")
    sign_in(page, site)
    page.wait_for_selector(".on")
    site.stop()
    page.wait_for_selector(".lost")
    assert page.locator("body.stale").count() == 1
    assert "Connection lost at" in page.inner_text("#when")
    keep(page, "lost")
    site.cluster.run(job, gpus=4)
    site.start()
    page.wait_for_selector(f"section[aria-labelledby=running] a:text-is('{job}')")
    page.wait_for_selector(".on")
    assert page.locator("body.stale").count() == 0


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_a_person_signs_in_comes_where_they_wanted_and_signs_out(page: Any, site: Site, role: str) -> None:
    job = submit(site, "resnet")
    page.goto(f"{site.url}/jobs/{job}")
    page.fill("#token", "pf_wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector(".wrong")
    assert page.evaluate("document.activeElement.id") == "token"
    page.keyboard.type(f"pf_{role}")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1.job")
    assert page.url == f"{site.url}/jobs/{job}"
    assert TOKENS[role][0] in page.inner_text(".who")
    assert page.evaluate("document.cookie") == "", "no script can read the token"
    page.click(".who button")
    page.wait_for_selector("#token")


def test_an_owner_cancels_a_job_only_after_a_second_click(page: Any, site: Site) -> None:
    job = submit(site, "resnet")
    sign_in(page, site, "user", f"/jobs/{job}")
    button = page.locator(".acts button", has_text=f"Cancel job {job}")
    assert not button.is_visible()
    page.locator(".acts summary", has_text="Cancel").press("Enter")
    button.click()
    page.wait_for_selector(".s-cancelled")


def test_hostile_names_are_texts_on_every_page_also_after_a_change(page: Any, site: Site) -> None:
    job, long = submit(site, HOSTILE), submit(site, "x" * 128)
    site.cluster.run(job)
    site.cluster.write(job, HOSTILE)
    page.set_viewport_size({"width": 360, "height": 740})
    sign_in(page, site)
    page.wait_for_selector(".on")
    site.cluster.run(long, gpus=2, reason=HOSTILE)
    page.wait_for_selector("section[aria-labelledby=running] tbody tr >> nth=1")
    for path in ("/", f"/jobs/{job}", f"/jobs/{long}"):
        page.goto(site.url + path)
        page.wait_for_selector("main")
        assert "owned" not in page.title()
        assert page.locator("main img, main script").count() == 0
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{path} needs {width} px"
    keep(page, "narrow-job")


def test_a_link_of_another_site_is_followed_with_the_cookie(page: Any, site: Site) -> None:
    """``localhost`` and ``127.0.0.1`` are two sites for the browser."""
    job = submit(site, "resnet")
    sign_in(page, site)
    page.goto(f"{site.url.replace('127.0.0.1', 'localhost')}/sign-in")
    page.evaluate(f"location.href = '{site.url}/jobs/{job}'")
    page.wait_for_selector("h1.job")
    assert "resnet" in page.inner_text("h1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier_on_any_page(chromium: Any, site: Site, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    job = submit(site, "resnet")
    site.cluster.run(job, gpus=2, progress=0.3, eta_s=site.cluster.now_s + 99)
    site.cluster.write(job, "step 1\n")
    site.cluster.declare_off("n1", Caller("ops", Role.OPERATOR), "fan is loud")
    submit(site, "bert")
    # axe is a script of its own, which the pages' policy would rightly block
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(site.url + "/sign-in")
    found = {"/sign-in": axe.run(page).response["violations"]}
    sign_in(page, site, "operator")
    for path in ("/", f"/jobs/{job}", "/jobs/77"):
        page.goto(site.url + path)
        page.wait_for_selector(".on" if path == "/" else "h1")
        found[path] = axe.run(page).response["violations"]
    context.close()
    assert [(path, each["id"]) for path, broken in found.items() for each in broken] == []


def test_dark_and_japanese(chromium: Any, site: Site) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="ja-JP", color_scheme="dark")
    page = context.new_page()
    site.cluster.run(submit(site, "resnet"), gpus=2)
    sign_in(page, site)
    page.wait_for_selector(".on")
    assert page.inner_text("#running") == "実行中のジョブ"
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert max(int(part) for part in paper.strip("rgb()").split(",")) < 64, "the page is dark"
    keep(page, "dark")
    context.close()
