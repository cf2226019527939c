"""Who asks, and how things that wait are taken from all of them in turn."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from typing import Generic, NamedTuple, TypeVar

from starlette.requests import Request

T = TypeVar("T")
NAME_HEADER = "x-client-id"
LONGEST_NAME = 64
NETWORK_BITS = 64
"""Of an IPv6 address: who has one has as many as he likes with the same first bits."""


class Client(NamedTuple):
    """An address, and the name that somebody at it gave itself.

    Addresses come first wherever clients share something: names cost nothing.
    """

    address: str = ""
    name: str = ""


NOBODY = Client()


def client_of(request: Request) -> Client:
    """Who sent a request. Forwarded headers are not believed: anybody can write them."""
    host = request.client.host if request.client else ""
    return Client(network_of(host), request.headers.get(NAME_HEADER, "")[:LONGEST_NAME])


def network_of(host: str) -> str:
    """An address; of IPv6 the network, without the part its owner chooses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4 or address.is_loopback:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, NETWORK_BITS), strict=False).network_address)


class Turns(Generic[T]):
    """Things that wait. Addresses take turns, and at an address its names do."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting(self, client: Client) -> int:
        """How many things of a client wait."""
        return len(self._waiting.get(client.address, {}).get(client.name, ()))

    def push(self, client: Client, item: T) -> None:
        """Something of a client, behind what else it waits for."""
        names = self._waiting.setdefault(client.address, OrderedDict())
        names.setdefault(client.name, deque()).append(item)
        self._count += 1

    def pop(self) -> T:
        """The next one's first; who wants more goes to the end."""
        address, names = self._waiting.popitem(last=False)
        name, items = names.popitem(last=False)
        item = items.popleft()
        self._count -= 1
        if items:
            names[name] = items
        if names:
            self._waiting[address] = names
        return item
