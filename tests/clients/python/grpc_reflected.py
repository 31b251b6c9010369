"""Follows a topic over gRPC with `grpcio` from PyPI: grpc_reflected.py ADDRESS TOPIC [CERTIFICATE].

Knows no proto: reflection describes the service, the calls and the messages. With a certificate,
the connection uses TLS, through a proxy.
"""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tell import again_and_again, tell

address, topic, *certificates = sys.argv[1:]
options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 400)]
# Statuses of a broker that is gone or was cut off: the client must reconnect.
lost = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
if certificates:
    with open(certificates[0], "rb") as certificate:
        credentials = grpc.ssl_channel_credentials(certificate.read())
    channel = grpc.secure_channel(address, credentials, options)
    # A proxy may end a call without a status when the broker goes away.
    lost |= {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
else:
    channel = grpc.insecure_channel(address, options)
cursor = "earliest"
subscribe = None


def reflected(name):
    """Returns the call of this name, from whichever service has it, and its request."""
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    services = [pool.FindServiceByName(service) for service in database.get_services()]
    method = next(s.methods_by_name[name] for s in services if name in s.methods_by_name)
    request, response = map(GetMessageClass, (method.input_type, method.output_type))
    call = channel.unary_stream(
        f"/{method.containing_service.full_name}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return call, request


def follow():
    global subscribe
    try:
        subscribe = subscribe or reflected("Subscribe")
        call, request = subscribe
        for message in call(request(**{"topic": topic, "from": cursor})):
            take(message.WhichOneof("message"), message)
    except grpc.RpcError as error:
        if error.code() not in lost:
            raise
        raise ConnectionError from error


def take(kind, message):
    global cursor
    told = getattr(message, kind)
    if kind == "events":
        for event in told.events:
            tell("event", str(event.sequence), event.type, event.payload.decode())
    elif kind == "gap":
        names = ("requested", "earliest", "lost", "reason")
        tell("gap", told.cursor, "", json.dumps({name: getattr(told, name) for name in names}))
    cursor = getattr(told, "cursor", "") or cursor


again_and_again(follow, (ConnectionError,))
