"""A declaration's figures in the form in which SQL and Lua count them."""

from guardrails import policy
from ledger.breaker import BreakerRates, Rate
from ledger.limits import Limits


def limits_of(declared: policy.Policy) -> Limits:
    """Return the limits that admission and the ledger's recount share."""
    usual, quota, budget = Limits(), declared.quota, declared.budget or policy.Budget.model_construct()
    user, everyone = budget.user, budget.everyone
    return Limits(
        quota=quota.count if quota else None,
        quota_window_s=quota.window_s if quota else usual.quota_window_s,
        cooldown_s=declared.cooldown,
        user_budget=user.money if user else None,
        user_window_s=user.window_s if user else usual.user_window_s,
        everyone_budget=everyone.money if everyone else None,
        everyone_window_s=everyone.window_s if everyone else usual.everyone_window_s,
    )


def rates_of(declared: policy.Policy) -> BreakerRates:
    """Return the paid starts per window above which a breaker opens."""
    if declared.breaker is None:
        return BreakerRates()
    user, everyone = declared.breaker.user, declared.breaker.everyone
    return BreakerRates(
        user=Rate(user.count, user.window_s) if user else None,
        everyone=Rate(everyone.count, everyone.window_s) if everyone else None,
    )
