"""Understudy from Python with grpcio and grpcio-reflection alone: no generated code, no .proto files.

The servers describe their services by reflection. The program puts and gets, repeats a request under its id and is told
that it is a duplicate, reads the details of an error, and keeps a request alive over a failover.
"""

import argparse
import os
import sys
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

PACKAGE = "understudy.v1"
NAMESPACE = "python-example"
# One attempt. Longer than a healthy write takes; a frozen server costs one of these, not the whole deadline.
ATTEMPT_SECONDS = 2.0
# A request with all its attempts. Longer than a failover takes.
DEADLINE_SECONDS = 30.0
PAUSE_SECONDS = 0.05
# Another server cannot do better with these; the request changed nothing.
FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
}


class Refused(Exception):
    """A server refused, and no other server would do otherwise."""

    def __init__(self, status, info):
        self.status = status
        self.reason = info.reason if info else ""
        self.metadata = dict(info.metadata) if info else {}
        super().__init__(f"{status.code().name} {self.reason} {self.metadata}: {status.details()}")


class OutcomeUnknown(Exception):
    """Time ran out after an attempt that may have run. The same request id settles it later."""


class Unavailable(Exception):
    """Time ran out, and no attempt ran."""


def uuid7():
    """A client id: 16 bytes, the time in milliseconds in front (RFC 9562)."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return number.to_bytes(16, "big")


class Cluster:
    """Some servers of a cluster. Any of them will do: a node that is not the primary passes the request on."""

    def __init__(self, endpoints):
        self.channels = [grpc.insecure_channel(endpoint) for endpoint in endpoints]
        self.first = 0
        self.pool = self._reflect()
        self.client_id = uuid7()
        self.sequence = 0

    def _reflect(self):
        """A pool that asks the first server that answers for descriptors, and remembers them."""
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            for channel in self.channels:
                pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
                try:
                    # All that is used below, so that a server that is lost later is not missed.
                    for service in ["Objects", "Naming", "Cluster"]:
                        pool.FindServiceByName(f"{PACKAGE}.{service}")
                    for message in ["google.rpc.Status", "google.rpc.ErrorInfo"]:
                        pool.FindMessageTypeByName(message)
                    return pool
                except (grpc.RpcError, KeyError):
                    continue
            if time.monotonic() > end:
                raise Unavailable("no server answers to reflection")
            time.sleep(PAUSE_SECONDS)

    def message(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def next_request_id(self):
        self.sequence += 1
        return {"client_id": self.client_id, "sequence": self.sequence}

    def call(self, service, method, request):
        """Asks one server after the other until one answers. A request with an id runs once, however often it is sent."""
        described = self.pool.FindServiceByName(f"{PACKAGE}.{service}").methods_by_name[method]
        question = message_factory.GetMessageClass(described.input_type)(**request)
        answer = message_factory.GetMessageClass(described.output_type)
        end = time.monotonic() + DEADLINE_SECONDS
        may_have_run = False
        last = None
        while time.monotonic() < end:
            channel = self.channels[self.first % len(self.channels)]
            stub = channel.unary_unary(
                f"/{PACKAGE}.{service}/{method}",
                request_serializer=to_bytes,
                response_deserializer=answer.FromString,
            )
            try:
                return stub(question, timeout=ATTEMPT_SECONDS)
            except grpc.RpcError as error:
                info = self.error_info(error)
                if error.code() in FINAL:
                    raise Refused(error, info) from None
                # Without our ErrorInfo nobody knows whether the request ran.
                may_have_run |= info is None or info.metadata["applied"] != "no"
                last = error
                self.first += 1
                time.sleep(PAUSE_SECONDS)
        raise (OutcomeUnknown if may_have_run else Unavailable)(str(last))

    def error_info(self, error):
        """The google.rpc.ErrorInfo of an error, or None."""
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status = self.message("google.rpc.Status").FromString(value)
                for detail in status.details:
                    if detail.type_url.endswith("/google.rpc.ErrorInfo"):
                        return self.message("google.rpc.ErrorInfo").FromString(detail.value)
        return None

    def create_namespace(self, name):
        request = {"request_id": self.next_request_id(), "name": name, "if_not_exists": True, "policy": {"copies": 3}}
        return self.call("Cluster", "CreateNamespace", request)

    def put(self, key, value, request_id=None, copies=0):
        """Durable on its primary before it is answered; `copies`: on so many secondaries, too."""
        return self.execute([{"put": {"key": key, "value": value}}], [], request_id, copies)

    def execute(self, ops, preconditions=(), request_id=None, copies=0):
        request = {
            "request_id": request_id or self.next_request_id(),
            "namespace": NAMESPACE,
            "ops": ops,
            "preconditions": list(preconditions),
            "copies": copies,
        }
        return self.call("Objects", "Execute", request)

    def address_of(self, node):
        """Where clients reach a node that has copies of the namespace."""
        route = self.call("Naming", "Route", {"namespace": NAMESPACE})
        return next(known.address for known in route.nodes if known.node == node)

    def get(self, key):
        """The plain value, or None."""
        found = self.call("Objects", "Read", {"namespace": NAMESPACE, "keys": [key]}).objects[0]
        if not found.HasField("object"):
            return None
        return next((part.value.data for part in found.object.components if part.name == b""), None)


def to_bytes(message):
    return message.SerializeToString()


def check(condition, what):
    if not condition:
        sys.exit(f"FAILED: {what}")
    print(f"ok: {what}")


def puts_and_gets(cluster):
    written = cluster.put(b"{trip}from", b"Lisbon")
    check(written.outcome.status == 1 and not written.duplicate, f"put, at {pair(written)}")
    check(cluster.get(b"{trip}from") == b"Lisbon", "get gives what was put")
    check(cluster.get(b"{trip}to") is None, "get of an absent object")


def repeats_a_request(cluster):
    request_id = cluster.next_request_id()
    add = [{"add": {"key": b"{trip}tickets", "name": b"", "delta": 1}}]
    first = cluster.execute(add, request_id=request_id)
    again = cluster.execute(add, request_id=request_id)
    check(again.duplicate and not first.duplicate, "the same request id again is a duplicate")
    check(pair(again) == pair(first), "it gets the first outcome")
    check(again.outcome.results[0].counter == 1, "and the request ran once")


def fails_a_condition(cluster):
    condition = {"key": b"{trip}from", "absent": True}
    answer = cluster.execute([{"put": {"key": b"{trip}from", "value": b"Porto"}}], [condition])
    check(answer.outcome.status == 2, "a condition that does not hold is an outcome, no error")
    check(cluster.get(b"{trip}from") == b"Lisbon", "and nothing ran")


def reads_error_info(cluster):
    try:
        cluster.put(b"", b"a key has at least one byte")
        check(False, "an empty key is refused")
    except Refused as refused:
        check(refused.reason == "FIELD_INVALID", f"ErrorInfo: {refused.reason} {refused.metadata}")
        check(refused.metadata["applied"] == "no", "and says that nothing was changed")


def survives_a_failover(cluster):
    """Says where the primary is, and goes on when somebody has killed it and says so."""
    request_id = cluster.next_request_id()
    # On a secondary too before it is answered, so that whoever follows the primary has it.
    before = cluster.put(b"{trip}seat", b"12A", request_id, copies=1)
    check(before.copies_durable >= 1, "put, on a second copy too")
    address = cluster.address_of(before.primary_node)
    print(f"READY primary={before.primary_node} address={address}", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    again = cluster.put(b"{trip}seat", b"12A", request_id, copies=1)
    check(again.duplicate, f"after the failover ({time.monotonic() - began:.2f} s) the request is a duplicate")
    check(cluster.get(b"{trip}seat") == b"12A", "its value is there")
    after = cluster.put(b"{trip}seat", b"14C")
    check(after.primary_node != before.primary_node, f"node {after.primary_node} is the primary now")
    check(cluster.get(b"{trip}seat") == b"14C", "and takes new values")


def pair(answer):
    return f"{answer.pair.epoch}.{answer.pair.version}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", default="127.0.0.1:7420", help="host:port,... of some nodes and managers")
    parser.add_argument("--failover", action="store_true", help="also wait until the primary was killed")
    arguments = parser.parse_args()
    endpoints = [endpoint.removeprefix("http://") for endpoint in arguments.endpoints.split(",")]
    cluster = Cluster(endpoints)
    cluster.create_namespace(NAMESPACE)
    puts_and_gets(cluster)
    repeats_a_request(cluster)
    fails_a_condition(cluster)
    reads_error_info(cluster)
    if arguments.failover:
        survives_a_failover(cluster)
    print("all well")


if __name__ == "__main__":
    main()
