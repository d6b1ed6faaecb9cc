"""Closed forms of queueing theory: what the search sizes capacity with, and what the simulation is checked against.

Everywhere: `rate` is λ, arrivals a second (Poisson); `service` is 1/μ, mean seconds of service; `servers` is c. The
offered load is a = λ/μ (erlangs), the utilisation ρ = a/c. A queue with ρ ≥ 1 has no steady state: infinite waits.

Sources: D. Gross, J. Shortle, J. Thompson, C. Harris, Fundamentals of Queueing Theory (4th ed.), sections 2.2 (M/M/1),
2.3 (M/M/c, Erlang C), 2.5 (Erlang B), 5.1 (M/G/1, Pollaczek-Khinchine); A. K. Erlang (1909) for the distribution of the
wait in M/D/1; G. P. Cosmetatos (1975) for the mean wait in M/D/c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator


def erlang_b(load: float, servers: int) -> float:
    """Share of arrivals that find all servers busy where none may wait (M/G/c/c), by the stable recursion."""
    blocked = 1.0
    for c in range(1, servers + 1):
        blocked = load * blocked / (c + load * blocked)
    return blocked


def erlang_c(load: float, servers: int) -> float:
    """Share of arrivals that have to wait in M/M/c."""
    if load >= servers:
        return 1.0
    return _c_of_b(erlang_b(load, servers), load, servers)


def mean_wait(rate: float, service: float, servers: int = 1) -> float:
    """Mean seconds in the queue of M/M/c: C(c, a) / (cμ − λ)."""
    load = rate * service
    if load >= servers:
        return math.inf
    return erlang_c(load, servers) / (servers / service - rate)


def mm1_time_quantile(rate: float, service: float, share: float) -> float:
    """Seconds that `share` of the arrivals spend in M/M/1, wait and service: exponential with rate μ − λ."""
    if rate * service >= 1:
        return math.inf
    return -math.log(1 - share) / (1 / service - rate)


def mg1_mean_wait(rate: float, service: float, squared_variation: float) -> float:
    """Mean seconds in the queue of M/G/1 (Pollaczek-Khinchine).

    Args:
        squared_variation: variance of the service time over its squared mean; 0 constant (M/D/1), 1 exponential.
    """
    load = rate * service
    if load >= 1:
        return math.inf
    return load * service * (1 + squared_variation) / (2 * (1 - load))


def md1_wait_within(rate: float, service: float, seconds: float) -> float:
    """Share of the arrivals that wait at most `seconds` in M/D/1 (Erlang's sum, exact).

    P(W ≤ t) = (1 − ρ) Σ_k e^{λ(t − kD)} (−λ(t − kD))^k / k!, for k from 0 to ⌊t/D⌋. The terms alternate and grow, so
    floating point carries it to about t = 15 services.
    """
    load = rate * service
    if load >= 1:
        return 0.0
    total = 0.0
    for k in range(int(seconds / service) + 1):
        x = rate * (seconds - k * service)
        total += math.exp(x) * (-x) ** k / math.factorial(k)
    return (1 - load) * total


def mdc_mean_wait(rate: float, service: float, servers: int) -> float:
    """Mean seconds in the queue of M/D/c (Cosmetatos' approximation; exact for one server, within 2 % for more)."""
    load = rate * service
    if load >= servers:
        return math.inf
    rho = load / servers
    correction = 1 + (1 - rho) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * rho * servers)
    return mean_wait(rate, service, servers) / 2 * correction if load else 0.0


def mdc_wait_quantile(rate: float, service: float, servers: int, share: float) -> float:
    """Seconds that `share` of the arrivals wait at most in M/D/c: the tail of M/M/c, twice as steep.

    An approximation for sizing (its mean is half that of M/M/c, as for constant service in heavy traffic); the
    simulation has the true figure.
    """
    load = rate * service
    if load >= servers:
        return math.inf
    return _exponential_quantile(erlang_c(load, servers), 2 * (servers / service - rate), share)


def servers_for(rate: float, service: float, wait: float, share: float, busy: float) -> int:
    """Fewest servers of M/D/c, at most `busy` utilised, where `share` of the arrivals wait at most `wait` seconds."""
    load = rate * service
    for servers, blocked in _blocked(load):
        if load > busy * servers:
            continue
        waits = _exponential_quantile(_c_of_b(blocked, load, servers), 2 * (servers / service - rate), share)
        if waits <= wait:
            return servers
    raise AssertionError("the recursion has no end")


def servers_without_loss(load: float, lost: float) -> int:
    """Fewest servers that turn away at most the share `lost` of the arrivals, where none may wait."""
    return next(servers for servers, blocked in _blocked(load) if blocked <= lost)


def _blocked(load: float) -> Iterator[tuple[int, float]]:
    blocked, servers = 1.0, 0
    while True:
        servers += 1
        blocked = load * blocked / (servers + load * blocked)
        yield servers, blocked


def _c_of_b(blocked: float, load: float, servers: int) -> float:
    return servers * blocked / (servers - load * (1 - blocked))


def _exponential_quantile(waiting: float, decay: float, share: float) -> float:
    """t with `waiting` × e^(−decay t) = 1 − share; 0 where fewer wait than that."""
    left = 1 - share
    return math.log(waiting / left) / decay if waiting > left else 0.0
