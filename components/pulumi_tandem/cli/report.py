"""A plan as one HTML file that needs nothing else: the picture and the table."""

from collections.abc import Sequence
from html import escape

from pulumi_tandem.cli.picture import svg
from pulumi_tandem.plan import Plan

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2rem auto; padding: 0 1rem; color: #222 }}
pre {{ font-size: 12px; line-height: 1.25; overflow-x: auto; background: #f6f6f4; padding: 1rem }}
svg {{ width: 100%; height: auto }}
.words {{ font-size: 17px }}
.small {{ color: #666; font-size: 13px }}
</style>
</head>
<body>
<h1>{title}</h1>
{verdicts}
{picture}
<p class="small">Lines: the best shapes of each kind in a deployment so large that whole workers and waiting do not
matter. Dots: the plans under the declared load. Dashed: the objective. Estimates, not measurements; the intervals
below hold about four of five.</p>
<pre>{table}</pre>
</body>
</html>
"""


def html_report(plans: Sequence[Plan], *, view: str) -> str:
    """The page; `view` is the table as a terminal shows it. Raises PictureError where nothing can be drawn."""
    names = ", ".join(plan.service.name for plan in plans)
    verdicts = "\n".join(
        f'<p class="words"><b>{escape(plan.service.name)}</b>: {escape(plan.verdict.words)}</p>' for plan in plans
    )
    drawn = svg(plans)
    picture = drawn[drawn.index("<svg") :]
    return PAGE.format(title=f"Plan of {escape(names)}", verdicts=verdicts, picture=picture, table=escape(view))
