"""TFRecords by other code than the reader's: protobuf's own, and a checksum from its polynomial."""

import struct
from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_KINDS = {bytes: "bytes_list", float: "float_list", int: "int64_list"}


@cache
def example_class():
    """tf.train.Example, with the fields of TensorFlow's example.proto and feature.proto."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def add(message, name, number, type, repeated=False, **options):
        of = {"type": type} if isinstance(type, int) else {"type_name": f".tensorflow.{type}"}
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        message.field.add(name=name, number=number, label=label, **of, **options)

    for name, type in [
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ]:
        add(file.message_type.add(name=name), "value", 1, type, repeated=True)
    feature = file.message_type.add(name="Feature", oneof_decl=[{"name": "kind"}])
    for number, name in enumerate(("Bytes", "Float", "Int64"), 1):
        add(feature, f"{name.lower()}_list", number, f"{name}List", oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options={"map_entry": True})
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, "Feature")
    add(features, "feature", 1, "Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def example(fields):
    """Bytes of an Example of features by name: bytes, a float, an integer, or a list of one of these."""
    message = example_class()()
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        kind = _KINDS[type(values[0]) if values else bytes]
        getattr(message.features.feature[name], kind).value.extend(values)
    return message.SerializeToString(deterministic=True)


@cache
def _crc_table():
    """CRC-32C of each byte, from the reversed Castagnoli polynomial."""
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return table


def masked_crc(data):
    """As TensorFlow's "TFRecords format details" have it, in four bytes."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15) | (crc << 17)) + 0xA282EAD8 & 0xFFFFFFFF)


@cache
def frame(data):
    """One record of a TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def tfrecord(records):
    """Bytes of a TFRecord of records, each an Example's bytes or its features."""
    return b"".join(frame(record if isinstance(record, bytes) else example(record)) for record in records)


def write_tfrecord(folder, content):
    """Write s.tfrecord of bytes or of records; returns its path."""
    path = folder / "s.tfrecord"
    path.write_bytes(content if isinstance(content, bytes) else tfrecord(content))
    return path
