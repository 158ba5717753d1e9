"""A strict Content-Security-Policy: the demo's settings with it, and what a page does against it, told to the test."""

from demo_site.settings import *  # noqa: F403

POLICY = "default-src 'self'"  # no inline script or style, nothing from elsewhere; sockets to the page's own origin

# Runs before any script or style of the page.
LISTEN = """
document.addEventListener("securitypolicyviolation", (e) => policyViolated(
    `${location.pathname}: ${e.effectiveDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber} ${e.sample}`));
"""


def strict(get_response):
    """Middleware: the policy on every answer."""

    def answer(request):
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return answer


def violations_of(page):
    """A list that grows with each violation on this tab's pages; from before the first page on."""
    found = []
    page.expose_function("policyViolated", lambda violation: found.append(violation))
    page.add_init_script(LISTEN)
    return found


MIDDLEWARE = ["tests.browser.policy.strict", *MIDDLEWARE]  # noqa: F405
