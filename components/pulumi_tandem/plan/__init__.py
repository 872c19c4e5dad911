"""The search for pool shapes that meet objectives under a load, and whether disaggregation is worth it.

Input: `Service` with `workload` and `objectives`. Output: `Plan`, plain data; equal input gives equal output. Whether a
shape may be at all is asked of the rules; what it does, of the estimate.
"""

from pulumi_tandem.plan.answer import Capacity, Plan, capacity, plan
from pulumi_tandem.plan.frontier import Point, frontier, points
from pulumi_tandem.plan.judge import judge
from pulumi_tandem.plan.option import Kind, Option, PlannedPool

__all__ = [
    "Capacity",
    "Kind",
    "Option",
    "Plan",
    "PlannedPool",
    "Point",
    "capacity",
    "frontier",
    "judge",
    "plan",
    "points",
]
