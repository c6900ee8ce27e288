"""Reading `tf.train.Example`, the messages that TFDS stores, without TensorFlow or protobuf.

    Example  {Features features = 1}
    Features {map<string, Feature> feature = 1}
    Feature  {BytesList bytes_list = 1, FloatList float_list = 2, Int64List int64_list = 3}

and each list has its values in field 1. Integers may be packed or not, as protobuf allows.
"""

_WITH_LENGTH = 0x0A  # the tag of field 1 with a length, which all is inside of
_VALUE = 0x12  # of an entry of the map, after its key
_BYTES_LIST, _INT64_LIST = 0x0A, 0x1A
_UNPACKED = 0x08  # the tag of field 1 with an integer
_BAD = "it is no tf.train.Example, or is cut off"


def parse(data):
    """Read a serialized `tf.train.Example`.

    Args:
        data: `bytes`.

    Returns:
        `{name: list of values}`, bytes or integers; features of floats are left out.

    Raises:
        ValueError: it is none, or is cut off.
    """
    found = {}
    try:
        at, end = _span(data, 0, len(data), _WITH_LENGTH)
        while at < end:
            entry, at = _span(data, at, end, _WITH_LENGTH)
            name, end_of_name = _span(data, entry, at, _WITH_LENGTH)
            value, end_of_value = _span(data, end_of_name, at, _VALUE)
            if value < end_of_value:
                kind = data[value]
                values, end_of_values = _span(data, value, end_of_value, kind)
                if kind == _BYTES_LIST:
                    found[data[name:end_of_name].decode()] = _texts(data, values, end_of_values)
                elif kind == _INT64_LIST:
                    found[data[name:end_of_name].decode()] = _integers(data, values, end_of_values)
    except IndexError:
        raise ValueError(_BAD) from None
    return found


def _span(data, at, end, tag):
    """Where the content of a field begins and ends that has a tag and a length before it."""
    length = data[at + 1]
    start = at + 2
    if length >= 0x80:
        length, start = _varint(data, at + 1)
    stop = start + length
    if data[at] != tag or stop > end:
        raise ValueError(_BAD)
    return start, stop


def _texts(data, at, end):
    values = []
    while at < end:
        start, at = _span(data, at, end, _WITH_LENGTH)
        values.append(data[start:at])
    return values


def _integers(data, at, end):
    values = []
    while at < end:
        if data[at] == _UNPACKED:
            value, at = _varint(data, at + 1)
            values.append(value)
            continue
        at, stop = _span(data, at, end, _WITH_LENGTH)
        while at < stop:
            value, at = _varint(data, at)
            values.append(value)
    # Negative numbers are stored as their complement in 64 bits.
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _varint(data, at):
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(_BAD)
