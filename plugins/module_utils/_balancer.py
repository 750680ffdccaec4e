# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What HAProxy's configuration says, derived from the hosts, the health check and the options.

Private to steadfast.vllm: it may change without notice. Pure, standard library only.
The template prints what stands here and decides nothing.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import typing as t

# Both carry traffic to every healthy server; in the second the standby servers wait until no primary is left.
ACTIVE_ACTIVE = "active_active"
PRIMARY_STANDBY = "primary_standby"
MODES = (ACTIVE_ACTIVE, PRIMARY_STANDBY)

# HAProxy looks at unused server connections this often and closes half of what it does not need. Well below the
# server's own keep-alive, so that HAProxy hangs up first and no request meets a connection that is just closing.
LONGEST_PURGE_DELAY = 5
PURGES_WITHIN_KEEP_ALIVE = 15

# How often each host's keeper is asked. A hung server takes requests for at most this long after its keeper knows it.
AGENT_INTERVAL = 1

# Who may always read the fleet page: whoever is on the balancer's host already has the statistics page.
LOOPBACK = ("127.0.0.1", "::1")

# What stands for the instance's name in the health check's path.
NAME = "{name}"

Plain = t.Mapping[str, t.Any]


class BalancerError(ValueError):
    """A balancer that cannot be built; `problems` holds one line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Server(t.NamedTuple):
    """One instance on one host, as the balancer sees it."""

    place: str
    host: str
    address: str
    instance: Plain

    @property
    def standby(self) -> bool:
        return bool(self.instance.get("standby"))

    @property
    def keep_alive(self) -> int:
        return int(self.instance["timeouts"]["keep_alive"])


def view(backends: t.Sequence[Plain], health_check: Plain, options: Plain) -> dict[str, t.Any]:
    """Frontends, backends with their servers, ports bound and names to look up; BalancerError names all that is wrong.

    `backends` is a list of {host, address, instances (normalised)}, `health_check` a complete dictionary,
    `options` the role's: mode, standby, ports, bind_address, stats_port, slow_start, keep_alive, agent, agent_port,
    fleet, fleet_port, fleet_clients; and `addresses`, what the balancer's host knows of the names among the addresses.
    """
    groups = _by_instance(backends)
    problems = [
        *_host_problems(backends),
        *_mode_problems(groups, backends, options),
        *_port_problems(groups, options),
        *_keep_alive_problems(groups, options),
        *_path_problems(health_check),
        *_client_problems(options),
    ]
    if problems:
        raise BalancerError(problems)
    standby_hosts = set(options["standby"])
    ports = _ports(groups, options)
    address = options["bind_address"]
    binds = [(name, address, ports[name], f"load_balancer_ports: {{{name}: ...}}") for name in groups]
    binds.append(("the statistics page", "127.0.0.1", options["stats_port"], "load_balancer_stats_port"))
    if options["fleet"]:
        binds.append(("the fleet page", address, int(options["fleet_port"]), "load_balancer_fleet_port"))
    return {
        "names": sorted(
            {server.address for servers in groups.values() for server in servers if not _is_ip(server.address)}
        ),
        "frontends": [{"name": name, "bind": _endpoint(address, ports[name]), "backend": name} for name in groups],
        "backends": [_backend(name, servers, health_check, options, standby_hosts) for name, servers in groups.items()],
        "binds": [
            {"name": name, "address": bound, "port": port, "variable": variable}
            for name, bound, port, variable in binds
        ],
        "fleet": _fleet(groups, backends, options) if options["fleet"] else None,
    }


def status_list(matcher: str) -> str:
    """The ALB's matcher as HAProxy's list of status codes; both write it alike, HAProxy without spaces."""
    return matcher.replace(" ", "")


def quoted(text: str) -> str:
    """`text` as one word of a HAProxy configuration: the strong quote leaves nothing but itself special."""
    if re.fullmatch(r"[A-Za-z0-9_./:@,=+-]+", text):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def port_conflicts(binds: t.Sequence[Plain], listeners: t.Sequence[Plain], service: str) -> list[str]:
    """One line for each port that the balancer wants and another program has; its own ports are no conflict.

    `listeners` is what _sockets.listeners saw on the balancer's host.
    """
    found = []
    for bind in binds:
        for other in listeners:
            if other["port"] != bind["port"] or service == other["unit"] or other["command"] == "haproxy":
                continue
            if not _overlap(str(bind["address"]), str(other["address"])):
                continue
            who = f"{other['command'] or 'a program that cannot be seen'} (pid {other['pid']}, user {other['user']}"
            who += f", unit {other['unit']})" if other["unit"] else ")"
            found.append(
                f"port {bind['port']} for {bind['name']}: taken on {other['address']} by {who}; "
                f"stop it, or choose another port with {bind['variable']}"
            )
    return found


def _by_instance(backends: t.Sequence[Plain]) -> dict[str, list[Server]]:
    groups: dict[str, list[Server]] = {}
    for backend in backends:
        for instance in backend["instances"]:
            place = f"{backend['host']}: vllm_instances {instance['name']}"
            server = Server(place, str(backend["host"]), str(backend["address"]), instance)
            groups.setdefault(str(instance["name"]), []).append(server)
    return groups


def _host_problems(backends: t.Sequence[Plain]) -> list[str]:
    if not any(backend["instances"] for backend in backends):
        return [
            "load_balancer_hosts: no host with an instance, so there is nothing to balance; "
            "put the GPU hosts into the group vllm, or name them in load_balancer_hosts"
        ]
    found: list[str] = []
    seen: set[str] = set()
    for backend in backends:
        host, address = str(backend["host"]), str(backend["address"])
        if host in seen:
            found.append(f"load_balancer_backends: {host} is listed twice; list every host once")
        seen.add(host)
        if not re.fullmatch(r"[A-Za-z0-9_.:-]+", host):
            found.append(
                f"load_balancer_backends: {host!r} cannot name a HAProxy server; "
                "use letters, digits, '.', '_', ':' and '-' in the inventory's host name"
            )
        if not re.fullmatch(r"[A-Za-z0-9_.:-]+", address):
            found.append(f"{host}: vllm_address {address!r} is no address; give an IP address or a host name")
            continue
        found += [
            f"{host}: vllm_instances {instance['name']}.host: {instance['host']} hears only its own host, but the "
            f"balancer calls it at {address}; give host: 0.0.0.0"
            for instance in backend["instances"]
            if _is_loopback(str(instance.get("host", ""))) and not _is_loopback(address)
        ]
    return found


def _mode_problems(groups: Plain, backends: t.Sequence[Plain], options: Plain) -> list[str]:
    mode, standby_hosts = options["mode"], list(options["standby"])
    if mode not in MODES:
        return [f"load_balancer_mode: {mode!r} is not known; give one of {', '.join(MODES)}"]
    hosts = [str(backend["host"]) for backend in backends]
    found = [
        f"load_balancer_standby: {name!r} is none of the balanced hosts{_meant(name, hosts)}"
        for name in standby_hosts
        if name not in hosts
    ]
    waiting = [server for servers in groups.values() for server in servers if _waits(server, standby_hosts)]
    if mode == ACTIVE_ACTIVE:
        found += [
            f"{server.place}: is a standby, but load_balancer_mode is {ACTIVE_ACTIVE}, which sends requests to every "
            f"host; give load_balancer_mode: {PRIMARY_STANDBY}, or no standby"
            for server in waiting
        ]
        return found
    if not waiting and not found:
        found.append(
            f"load_balancer_mode: {PRIMARY_STANDBY}, but nothing is a standby; name the standby hosts in "
            "load_balancer_standby, or give the instance standby: true"
        )
    found += [
        f"load_balancer_mode: {PRIMARY_STANDBY}, but {name} has only standby servers "
        f"({', '.join(server.host for server in servers)}); leave at least one primary"
        for name, servers in groups.items()
        if all(_waits(server, standby_hosts) for server in servers)
    ]
    return found


def _port_problems(groups: t.Mapping[str, list[Server]], options: Plain) -> list[str]:
    overrides: Plain = options["ports"]
    found = [
        f"load_balancer_ports.{name}: no instance has this name{_meant(name, list(groups))}"
        for name in overrides
        if name not in groups
    ]
    found += [
        f"load_balancer_ports.{name}: {port!r} is not a port; give a number from 1 to 65535"
        for name, port in overrides.items()
        if not _is_port(port)
    ]
    for name, servers in groups.items():
        own = sorted({int(server.instance["port"]) for server in servers})
        if len(own) > 1 and name not in overrides:
            listed = ", ".join(f"{server.host} {server.instance['port']}" for server in servers)
            found.append(
                f"load_balancer_ports: {name} has different ports on its hosts ({listed}); "
                f"say which one the balancer opens, as in load_balancer_ports: {{{name}: {own[0]}}}"
            )
    found += [
        f"load_balancer_{page}_port: {options[f'{page}_port']!r} is not a port; give a number from 1 to 65535"
        for page in ("stats", "fleet", "agent")
        if not _is_port(options[f"{page}_port"])
    ]
    if found:
        return found
    users: dict[int, list[str]] = {}
    for name, port in _ports(groups, options).items():
        users.setdefault(port, []).append(f"the frontend {name}")
    users.setdefault(int(options["stats_port"]), []).append("the statistics page (load_balancer_stats_port)")
    if options["fleet"]:
        users.setdefault(int(options["fleet_port"]), []).append("the fleet page (load_balancer_fleet_port)")
    return [
        f"load_balancer_ports: port {port} is wanted by {' and '.join(names)}; "
        "give one of them another port in load_balancer_ports, or by the variable named here"
        for port, names in users.items()
        if len(names) > 1
    ]


def _keep_alive_problems(groups: t.Mapping[str, list[Server]], options: Plain) -> list[str]:
    client = int(options["keep_alive"])
    return [
        f"{server.place}.timeouts.keep_alive: {server.keep_alive} s is not longer than "
        f"load_balancer_timeout_keep_alive {client} s; the server would hang up while the balancer's client may still "
        "send; give load_balancer_timeout_keep_alive a smaller value"
        for servers in groups.values()
        for server in servers
        if server.keep_alive <= client
    ]


def _path_problems(health_check: Plain) -> list[str]:
    path = str(health_check["path"] or "")
    others = sorted(set(re.findall(r"[{}][^{}]*}?", path.replace(NAME, ""))))
    return [
        f"load_balancer_health_check.path: {path!r} holds {other!r}, but only {NAME} stands for something (the "
        "instance's name); write other braces as %7B and %7D"
        for other in others
    ]


def _client_problems(options: Plain) -> list[str]:
    return [
        f"load_balancer_fleet_clients[{position}]: {client!r} is neither an address nor a network; "
        "give one such as 10.0.0.5 or 10.0.0.0/24"
        for position, client in enumerate(options["fleet_clients"])
        if not _is_network(client)
    ]


def _ports(groups: t.Mapping[str, list[Server]], options: Plain) -> dict[str, int]:
    return {name: int(options["ports"].get(name, servers[0].instance["port"])) for name, servers in groups.items()}


def _backend(
    name: str, servers: list[Server], health_check: Plain, options: Plain, standby_hosts: set[str]
) -> dict[str, t.Any]:
    keep_alive = min(server.keep_alive for server in servers)
    defaults = [
        "check",
        f"inter {health_check['interval']}s",
        f"rise {health_check['healthy_threshold']}",
        f"fall {health_check['unhealthy_threshold']}",
    ]
    if health_check["port"] != "traffic-port":
        defaults.append(f"port {health_check['port']}")
    if health_check["protocol"] == "HTTPS":
        # As an ALB does: the check asks whether the server answers, not who signed its certificate.
        defaults.append("check-ssl verify none")
    if options["slow_start"]:
        defaults.append(f"slowstart {options['slow_start']}s")
    defaults.append(f"pool-purge-delay {max(1, min(LONGEST_PURGE_DELAY, keep_alive // PURGES_WITHIN_KEEP_ALIVE))}s")
    defaults.append("init-addr libc,last,none")
    if options["agent"]:
        # Without agent-addr it is the server's own address, looked up as the server's is. The host's keeper speaks for
        # all its instances, so it is told which one is meant. One word of it is enough (HAProxy's own 1 of 1).
        defaults.append(
            f"agent-check agent-port {int(options['agent_port'])} agent-inter {AGENT_INTERVAL}s "
            f'agent-send "agent {name}\\n"'
        )
    return {
        "name": name,
        "keep_alive": keep_alive,
        "standby": options["mode"] == PRIMARY_STANDBY,
        "check": _check(health_check, name),
        "check_timeout": health_check["timeout"],
        "server_defaults": " ".join(defaults),
        "servers": [
            {
                "name": server.host,
                "endpoint": _endpoint(server.address, int(server.instance["port"])),
                "backup": _waits(server, standby_hosts),
            }
            for server in servers
        ],
    }


def _check(health_check: Plain, name: str) -> dict[str, str] | None:
    """What an HTTP check asks and expects; nothing for TCP, where a connection is all."""
    if health_check["protocol"] == "TCP":
        return None
    path = str(health_check["path"]).replace(NAME, name)
    return {"path": quoted(path), "status": status_list(str(health_check["matcher"]))}


def _fleet(groups: t.Mapping[str, list[Server]], backends: t.Sequence[Plain], options: Plain) -> dict[str, t.Any]:
    """The page that tells keepers how many servers of a backend are left, and who may read it."""
    known: t.Mapping[str, t.Sequence[str]] = options["addresses"]
    askers = []
    for backend in backends:
        if not backend["instances"]:
            continue
        address = str(backend["address"])
        # HAProxy would refuse a whole configuration for one name in an ACL that it cannot look up.
        addresses = [address] if _is_ip(address) else sorted(filter(_is_ip, known.get(address, [])))
        if addresses:
            askers.append({"name": str(backend["host"]), "addresses": addresses})
    clients = {*LOOPBACK, *map(str, options["fleet_clients"])}.union(*(asker["addresses"] for asker in askers))
    return {
        "bind": _endpoint(options["bind_address"], int(options["fleet_port"])),
        "clients": sorted(clients),
        "askers": askers,
        "backends": [{"name": name, "servers": [server.host for server in groups[name]]} for name in groups],
    }


def _waits(server: Server, standby_hosts: t.Collection[str]) -> bool:
    return server.standby or server.host in standby_hosts


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _overlap(one: str, other: str) -> bool:
    # A listener on all of IPv6 usually has IPv4's ports too.
    return one == other or _is_any(one) or _is_any(other)


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _is_network(client: object) -> bool:
    try:
        ipaddress.ip_network(str(client), strict=False)
    except ValueError:
        return False
    return True


def _is_any(address: str) -> bool:
    return address == "*" or (_is_ip(address) and ipaddress.ip_address(address).is_unspecified)


def _is_loopback(address: str) -> bool:
    return address == "localhost" or (_is_ip(address) and ipaddress.ip_address(address).is_loopback)


def _is_port(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return False
    return re.fullmatch(r"[0-9]{1,5}", str(value)) is not None and 1 <= int(value) <= 65535


def _meant(name: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f", did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
